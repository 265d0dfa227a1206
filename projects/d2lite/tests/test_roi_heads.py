"""Region heads: sampling, losses, inference, masks."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    ROIHeads,
    StandardROIHeads,
    select_foreground_proposals,
)
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.modeling.roi_heads.mask_head import (
    BaseMaskRCNNHead,
    mask_rcnn_inference,
    mask_rcnn_loss,
)
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn import functional as F

SIZE = (40, 60)
CLASSES = 3


def predictor(**options):
    torch.manual_seed(0)
    arguments = {
        "box2box_transform": Box2BoxTransform(weights=(10, 10, 5, 5)),
        "num_classes": CLASSES,
    }
    return FastRCNNOutputLayers(ShapeSpec(channels=8), **(arguments | options))


def build_heads(**options):
    torch.manual_seed(0)
    scales = (1 / 4, 1 / 8)
    arguments = {
        "num_classes": CLASSES,
        "batch_size_per_image": 16,
        "positive_fraction": 0.25,
        "proposal_matcher": Matcher([0.5], [0, 1]),
        "box_in_features": ["p2", "p3"],
        "box_pooler": ROIPooler(5, scales, 0, "ROIAlignV2"),
        "box_head": FastRCNNConvFCHead(ShapeSpec(6, 5, 5), conv_dims=[], fc_dims=[8]),
        "box_predictor": predictor(test_score_thresh=0.0),
        "mask_in_features": ["p2", "p3"],
        "mask_pooler": ROIPooler(6, scales, 0, "ROIAlignV2"),
        "mask_head": MaskRCNNConvUpsampleHead(
            ShapeSpec(6, 6, 6), num_classes=CLASSES, conv_dims=[4, 4]
        ),
    }
    return StandardROIHeads(**(arguments | options))


def features():
    generator = torch.Generator().manual_seed(2)
    return {
        "p2": torch.randn(2, 6, 10, 15, generator=generator),
        "p3": torch.randn(2, 6, 5, 8, generator=generator),
    }


def make_proposals(n=30, seed=3):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * torch.tensor([30.0, 20])
    side = 5 + torch.rand(n, 2, generator=generator) * 20
    return Instances(
        SIZE,
        proposal_boxes=Boxes(torch.cat((corner, corner + side), dim=1)),
        objectness_logits=torch.randn(n, generator=generator),
    )


def ground_truth(n=2):
    boxes = torch.tensor([[2.0, 3, 22, 20], [20, 10, 40, 35]])[:n]
    masks = torch.zeros(n, *SIZE, dtype=torch.bool)
    for mask, box in zip(masks, boxes.int().tolist(), strict=True):
        mask[box[1] : box[3], box[0] : box[2]] = True
    return Instances(
        SIZE,
        gt_boxes=Boxes(boxes),
        gt_classes=torch.tensor([1, 2])[:n],
        gt_masks=BitMasks(masks),
        other=torch.arange(n),
    )


# --- sampling


def test_foreground_selection():
    proposals = make_proposals(4)
    proposals.gt_classes = torch.tensor([0, 3, -1, 2])
    foreground, masks = select_foreground_proposals([proposals], bg_label=3)
    assert masks[0].tolist() == [True, False, False, True]
    assert torch.equal(foreground[0].proposal_boxes.tensor, proposals.proposal_boxes.tensor[[0, 3]])
    with pytest.raises(AssertionError, match="gt_classes"):
        select_foreground_proposals([make_proposals(1)], 3)


def roi_heads(**options):
    arguments = {
        "num_classes": CLASSES,
        "batch_size_per_image": 8,
        "positive_fraction": 0.25,
        "proposal_matcher": Matcher([0.5], [0, 1]),
    }
    return ROIHeads(**(arguments | options))


@pytest.mark.parametrize("append", [True, False])
def test_sampling(append):
    heads = roi_heads(proposal_append_gt=append)
    truth = ground_truth()
    with EventStorage() as storage:
        sample = heads.label_and_sample_proposals([make_proposals()], [truth])[0]
        counts = {k: v for k, (v, _) in storage.latest().items()}
    assert len(sample) == 8
    num_fg = (sample.gt_classes < CLASSES).sum().item()
    assert counts == {"roi_head/num_fg_samples": num_fg, "roi_head/num_bg_samples": 8 - num_fg}
    assert num_fg <= 2
    if append:
        assert num_fg == 2
    fields = {"proposal_boxes", "objectness_logits", "gt_boxes", "gt_classes", "gt_masks"}
    assert set(sample.get_fields()) == fields
    for row in range(num_fg):
        match = truth[(truth.gt_classes == sample.gt_classes[row]).nonzero()[0]]
        assert torch.equal(sample.gt_boxes.tensor[row], match.gt_boxes.tensor[0])
        assert torch.equal(sample.gt_masks.tensor[row], match.gt_masks.tensor[0])


def test_sampling_without_ground_truth_or_proposals():
    heads = roi_heads()
    with EventStorage():
        sample = heads.label_and_sample_proposals([make_proposals()], [ground_truth(0)])[0]
        assert (sample.gt_classes == CLASSES).all() and len(sample) == 8
        assert not sample.has("gt_boxes")
        sample = heads.label_and_sample_proposals([make_proposals(0)], [ground_truth()])[0]
        assert sorted(sample.gt_classes.tolist()) == [1, 2]
        sample = heads.label_and_sample_proposals([make_proposals(0)], [ground_truth(0)])[0]
        assert len(sample) == 0


def test_ignored_proposals_are_never_drawn():
    heads = roi_heads(proposal_matcher=Matcher([0.5], [-1, 1]), batch_size_per_image=100)
    with EventStorage():
        sample = heads.label_and_sample_proposals([make_proposals()], [ground_truth()])[0]
    assert (sample.gt_classes < CLASSES).all() and (sample.gt_classes >= 0).all()


def test_base_class_has_no_forward():
    with pytest.raises(NotImplementedError):
        roi_heads()(None, {}, [])


# --- box head


def test_box_head_layers():
    head = FastRCNNConvFCHead(
        ShapeSpec(channels=6, height=5, width=7),
        conv_dims=[32, 64],
        fc_dims=[16, 8],
        conv_norm="GN",
    )
    names = ["conv1", "conv2", "flatten", "fc1", "fc_relu1", "fc2", "fc_relu2"]
    assert [name for name, _ in head.named_children()] == names
    assert "conv1.norm.weight" in head.state_dict() and "conv1.bias" not in head.state_dict()
    assert head.fc1.in_features == 64 * 5 * 7
    assert head.output_shape == ShapeSpec(channels=8)
    x = torch.randn(3, 6, 5, 7)
    y = F.relu(head.fc1(head.conv2(head.conv1(x)).flatten(1)))
    torch.testing.assert_close(head(x), F.relu(head.fc2(y)))
    assert head(x[:0]).shape == (0, 8)


def test_box_head_of_convolutions_only():
    head = FastRCNNConvFCHead(ShapeSpec(6, 5, 7), conv_dims=[4], fc_dims=[])
    assert head.output_shape == ShapeSpec(channels=4, height=5, width=7)
    assert head(torch.randn(2, 6, 5, 7)).shape == (2, 4, 5, 7)
    with pytest.raises(AssertionError):
        FastRCNNConvFCHead(ShapeSpec(6, 5, 7), conv_dims=[], fc_dims=[])


# --- box predictor


def labelled_proposals(classes=(0, 2, 3, 3)):
    proposals = make_proposals(len(classes))
    proposals.gt_classes = torch.tensor(classes, dtype=torch.int64)
    proposals.gt_boxes = Boxes(proposals.proposal_boxes.tensor + torch.tensor([1.0, 0, 2, 3]))
    return proposals


def test_predictor_shapes_and_initialisation():
    layers = predictor()
    assert layers.cls_score.weight.shape == (4, 8) and layers.bbox_pred.weight.shape == (12, 8)
    assert predictor(cls_agnostic_bbox_reg=True).bbox_pred.weight.shape == (4, 8)
    large = FastRCNNOutputLayers(
        ShapeSpec(channels=16, height=7, width=7),
        box2box_transform=Box2BoxTransform((1, 1, 1, 1)),
        num_classes=50,
    )
    assert large.cls_score.in_features == 16 * 49
    assert large.cls_score.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert large.bbox_pred.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert large.bbox_pred.bias.abs().max() == 0
    scores, deltas = large(torch.randn(5, 16, 7, 7))
    assert scores.shape == (5, 51) and deltas.shape == (5, 200)
    by_number = FastRCNNOutputLayers(
        8, box2box_transform=Box2BoxTransform((1, 1, 1, 1)), num_classes=1
    )
    assert by_number(torch.randn(2, 8))[0].shape == (2, 2)


@pytest.mark.parametrize("agnostic", [False, True])
def test_losses_in_closed_form(agnostic):
    layers = predictor(
        cls_agnostic_bbox_reg=agnostic, loss_weight={"loss_box_reg": 2.0}, smooth_l1_beta=0.5
    )
    proposals = [labelled_proposals(), labelled_proposals((1, 3))]
    scores, deltas = torch.randn(6, 4), torch.randn(6, 4 if agnostic else 12)
    with EventStorage() as storage:
        losses = layers.losses((scores, deltas), proposals)
        logged = {k: v for k, (v, _) in storage.latest().items()}
    classes = [0, 2, 3, 3, 1, 3]
    cls = box = 0.0
    for row, c in enumerate(classes):
        cls += (scores[row].logsumexp(0) - scores[row, c]).item() / 6
        if c < 3:
            image, i = (0, row) if row < 4 else (1, row - 4)
            target = layers.box2box_transform.get_deltas(
                proposals[image].proposal_boxes.tensor[i : i + 1],
                proposals[image].gt_boxes.tensor[i : i + 1],
            )[0]
            start = 0 if agnostic else 4 * c
            box += F.smooth_l1_loss(
                deltas[row, start : start + 4], target, beta=0.5, reduction="sum"
            ).item()
    assert losses["loss_cls"].item() == pytest.approx(cls, rel=1e-5)
    assert losses["loss_box_reg"].item() == pytest.approx(2 * box / 6, rel=1e-5)

    predicted = scores.argmax(1).tolist()
    right = [p == c for p, c in zip(predicted, classes, strict=True)]
    foreground = [row for row, c in enumerate(classes) if c < 3]
    assert logged["fast_rcnn/cls_accuracy"] == pytest.approx(sum(right) / 6)
    fg_accuracy = sum(right[r] for r in foreground) / 3
    assert logged["fast_rcnn/fg_cls_accuracy"] == pytest.approx(fg_accuracy)
    missed = sum(predicted[r] == 3 for r in foreground) / 3
    assert logged["fast_rcnn/false_negative"] == pytest.approx(missed)


@pytest.mark.parametrize("kind", ["smooth_l1", "giou", "diou", "ciou"])
def test_every_box_loss(kind):
    layers = predictor(box_reg_loss_type=kind)
    proposals = labelled_proposals()
    with EventStorage():
        # Only the foreground counts, and a perfect prediction costs nothing
        deltas = layers.box2box_transform.get_deltas(
            proposals.proposal_boxes.tensor, proposals.gt_boxes.tensor
        ).repeat(1, CLASSES)
        good = layers.losses((torch.zeros(4, 4), deltas), [proposals])["loss_box_reg"]
        bad = layers.losses((torch.zeros(4, 4), deltas + 1), [proposals])["loss_box_reg"]
    assert good.item() == pytest.approx(0, abs=1e-4)
    assert bad.item() > 0.01
    with pytest.raises(ValueError, match="'nope'"), EventStorage():
        predictor(box_reg_loss_type="nope").losses((torch.zeros(4, 4), deltas), [proposals])


@pytest.mark.parametrize("sigmoid", [False, True])
def test_losses_of_nothing(sigmoid):
    layers = predictor(use_sigmoid_ce=sigmoid)
    predictions = layers(torch.zeros(0, 8))
    for proposals in ([], [labelled_proposals(())]):
        with EventStorage() as storage:
            losses = layers.losses(predictions, proposals)
            assert storage.latest() == {}
        assert [loss.item() for loss in losses.values()] == [0, 0]
        sum(losses.values(), predictions[0].sum()).backward(retain_graph=True)


def test_image_without_ground_truth_counts_as_background():
    proposals = labelled_proposals((3, 3))
    proposals.remove("gt_boxes")
    layers = predictor()
    with EventStorage():
        losses = layers.losses((torch.zeros(2, 4), torch.zeros(2, 12)), [proposals])
    assert losses["loss_box_reg"].item() == 0
    assert losses["loss_cls"].item() == pytest.approx(math.log(4))


def test_proposals_may_not_need_gradients():
    proposals = labelled_proposals()
    proposals.proposal_boxes.tensor.requires_grad_()
    with pytest.raises(AssertionError, match="gradients"), EventStorage():
        predictor().losses((torch.zeros(4, 4), torch.zeros(4, 12)), [proposals])


def test_sigmoid_loss_in_closed_form():
    scores, classes = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 3])
    layers = predictor(use_sigmoid_ce=True)
    expected = 0.0
    for row in range(5):
        for c in range(3):
            score = scores[row, c].item()
            expected += math.log1p(math.exp(-score if classes[row] == c else score)) / 5
    loss = layers.sigmoid_cross_entropy_loss(scores, classes)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    probs = layers.predict_probs((scores, None), [make_proposals(5)])[0]
    torch.testing.assert_close(probs, scores.sigmoid())


def test_federated_loss():
    weights = torch.tensor([1.0, 0.0, 0.0])
    layers = predictor(
        use_sigmoid_ce=True,
        use_fed_loss=True,
        get_fed_loss_cls_weights=lambda: weights,
        fed_loss_num_classes=2,
    )
    assert "fed_loss_cls_weights" in layers.state_dict()
    # Class 1 is in the ground truth, class 0 is the only one that can be drawn.
    scores, classes = torch.randn(2, 4), torch.tensor([1, 1])
    chosen = layers.get_fed_loss_classes(classes, 2, CLASSES, weights)
    assert sorted(chosen.tolist()) == [0, 1]
    expected = F.binary_cross_entropy_with_logits(
        scores[:, :2], torch.tensor([[0.0, 1]] * 2), reduction="sum"
    )
    loss = layers.sigmoid_cross_entropy_loss(scores, classes)
    torch.testing.assert_close(loss, expected / 2)
    everything = layers.get_fed_loss_classes(torch.arange(4), 2, CLASSES, weights)
    assert everything.tolist() == [0, 1, 2, 3]


def test_federated_loss_arguments():
    with pytest.raises(AssertionError, match="sigmoid"):
        predictor(use_fed_loss=True)
    with pytest.raises(AssertionError, match="match"):
        predictor(
            use_fed_loss=True, use_sigmoid_ce=True, get_fed_loss_cls_weights=lambda: torch.ones(5)
        )


def test_predicted_boxes():
    layers = predictor()
    proposals = [labelled_proposals(), labelled_proposals((1,))]
    predictions = (torch.randn(5, 4), torch.randn(5, 12))
    boxes = layers.predict_boxes(predictions, proposals)
    assert [b.shape for b in boxes] == [(4, 12), (1, 12)]
    chosen = layers.predict_boxes_for_gt_classes(predictions, proposals)
    for row, c in enumerate((0, 2, 2, 2)):  # background takes the last class
        assert torch.equal(chosen[0][row], boxes[0][row, 4 * c : 4 * c + 4])
    assert torch.equal(chosen[1][0], boxes[1][0, 4:8])
    assert proposals[0].gt_classes.tolist() == [0, 2, 3, 3]
    agnostic = predictor(cls_agnostic_bbox_reg=True)
    one = (predictions[0], predictions[1][:, :4])
    assert torch.equal(
        agnostic.predict_boxes_for_gt_classes(one, proposals)[0],
        agnostic.predict_boxes(one, proposals)[0],
    )
    assert layers.predict_boxes(predictions, []) == []
    assert layers.predict_boxes_for_gt_classes(predictions, []) == []


# --- inference


def slow_inference(boxes, scores, shape, score_thresh, nms_thresh, topk):
    found = []
    for c in range(scores.shape[1] - 1):
        rows = [r for r in range(len(scores)) if scores[r, c] > score_thresh]
        kept = []
        for row in sorted(rows, key=lambda r: -scores[r, c].item()):
            k = 0 if boxes.shape[1] == 4 else c
            x0, y0, x1, y1 = boxes[row, 4 * k : 4 * k + 4].tolist()
            box = (
                min(max(x0, 0), shape[1]),
                min(max(y0, 0), shape[0]),
                min(max(x1, 0), shape[1]),
                min(max(y1, 0), shape[0]),
            )
            if all(iou(box, other) <= nms_thresh for other, _ in kept):
                kept.append((box, row))
        found += [(scores[row, c].item(), c, row, box) for box, row in kept]
    return sorted(found, reverse=True)[: topk if topk >= 0 else None]


def iou(a, b):
    w = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    h = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return w * h / (sum(areas) - w * h)


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("topk", [5, -1])
def test_inference_equals_a_slow_loop(agnostic, topk):
    torch.manual_seed(4)
    boxes = make_proposals(25).proposal_boxes.tensor
    if not agnostic:
        boxes = (boxes[:, None] + torch.randn(25, 3, 1) * 3).flatten(1)
    scores = torch.rand(25, 4)
    results, rows = fast_rcnn_inference([boxes], [scores], [SIZE], 0.3, 0.4, topk)
    expected = slow_inference(boxes, scores, SIZE, 0.3, 0.4, topk)
    assert len(results[0]) == len(expected) > 3
    assert rows[0].tolist() == [e[2] for e in expected]
    assert results[0].pred_classes.tolist() == [e[1] for e in expected]
    assert results[0].scores.tolist() == pytest.approx([e[0] for e in expected])
    torch.testing.assert_close(results[0].pred_boxes.tensor, torch.tensor([e[3] for e in expected]))


def test_inference_drops_what_is_not_finite():
    boxes = torch.tensor([[0.0, 0, 9, 9], [float("nan"), 0, 9, 9], [20, 20, 30, 30]])
    scores = torch.tensor([[0.9, 0.1], [0.9, 0.1], [float("inf"), 0.1]])
    results, _ = fast_rcnn_inference([boxes], [scores], [SIZE], 0.5, 0.5, 10)
    assert results[0].pred_boxes.tensor.tolist() == [[0, 0, 9, 9]]


def test_inference_of_nothing():
    results, rows = fast_rcnn_inference(
        [torch.zeros(0, 12)], [torch.zeros(0, 4)], [SIZE], 0.5, 0.5, 10
    )
    assert len(results[0]) == len(rows[0]) == 0
    assert results[0].pred_boxes.tensor.shape == (0, 4)
    assert fast_rcnn_inference([], [], [], 0.5, 0.5, 10) == ([], [])


# --- masks


def mask_proposals():
    proposals = ground_truth()
    proposals.proposal_boxes = Boxes(proposals.gt_boxes.tensor + torch.tensor([-2.0, -2, 2, 2]))
    return proposals


@pytest.mark.parametrize("agnostic", [False, True])
def test_mask_loss_in_closed_form(agnostic):
    proposals = mask_proposals()
    logits = torch.randn(2, 1 if agnostic else CLASSES, 8, 8)
    empty = proposals[:0]
    with EventStorage() as storage:
        loss = mask_rcnn_loss(logits, [empty, proposals])
        logged = {k: v for k, (v, _) in storage.latest().items()}
    target = proposals.gt_masks.crop_and_resize(proposals.proposal_boxes.tensor, 8)
    chosen = torch.stack([logits[i, 0 if agnostic else i + 1] for i in range(2)])
    expected = F.binary_cross_entropy_with_logits(chosen, target.float())
    torch.testing.assert_close(loss, expected)
    wrong = (chosen > 0) != target
    assert logged["mask_rcnn/accuracy"] == pytest.approx(1 - wrong.float().mean().item())
    assert logged["mask_rcnn/false_positive"] == pytest.approx(wrong[~target].float().mean().item())
    assert logged["mask_rcnn/false_negative"] == pytest.approx(wrong[target].float().mean().item())


def test_mask_loss_of_nothing():
    logits = torch.randn(0, CLASSES, 8, 8, requires_grad=True)
    loss = mask_rcnn_loss(logits, [mask_proposals()[:0]])
    assert loss.item() == 0
    loss.backward()
    with pytest.raises(AssertionError, match="square"):
        mask_rcnn_loss(torch.zeros(1, 1, 8, 9), [])


def test_mask_pictures():
    with EventStorage(start_iter=4) as storage:
        mask_rcnn_loss(torch.zeros(2, CLASSES, 8, 8), [mask_proposals()], vis_period=2)
        pictures = storage._vis_data
        assert len(pictures) == 2
        assert pictures[0][0] == "Left: mask prediction;   Right: mask GT (0)"
        assert pictures[0][1].shape == (3, 8, 16)
    with EventStorage(start_iter=3) as storage:
        mask_rcnn_loss(torch.zeros(2, CLASSES, 8, 8), [mask_proposals()], vis_period=2)
        assert not storage._vis_data


@pytest.mark.parametrize("agnostic", [False, True])
def test_mask_inference(agnostic):
    logits = torch.randn(3, 1 if agnostic else CLASSES, 6, 6)
    instances = [
        Instances(SIZE, pred_classes=torch.tensor([2, 0])),
        Instances(SIZE, pred_classes=torch.tensor([], dtype=torch.int64)),
        Instances(SIZE, pred_classes=torch.tensor([1])),
    ]
    mask_rcnn_inference(logits, instances)
    assert [x.pred_masks.shape for x in instances] == [(2, 1, 6, 6), (0, 1, 6, 6), (1, 1, 6, 6)]
    for row, c in enumerate((2, 0)):
        expected = logits[row, 0 if agnostic else c].sigmoid()
        torch.testing.assert_close(instances[0].pred_masks[row, 0], expected)


def test_mask_head_layers():
    head = MaskRCNNConvUpsampleHead(
        ShapeSpec(channels=6), num_classes=CLASSES, conv_dims=[32, 64, 16], conv_norm="GN"
    )
    names = ["mask_fcn1", "mask_fcn2", "deconv", "deconv_relu", "predictor"]
    assert [name for name, _ in head.named_children()] == names
    assert head.mask_fcn1.norm is not None and head.mask_fcn1.bias is None
    assert head.deconv.weight.shape == (64, 16, 2, 2)
    assert head.layers(torch.randn(2, 6, 7, 7)).shape == (2, CLASSES, 14, 14)
    assert head.predictor.bias.abs().max() == 0
    with pytest.raises(AssertionError, match="non-empty"):
        MaskRCNNConvUpsampleHead(ShapeSpec(channels=6), num_classes=1, conv_dims=[])
    with pytest.raises(TypeError):
        MaskRCNNConvUpsampleHead(ShapeSpec(channels=6), num_classes=1, conv_dims=[4], nothing=1)
    with pytest.raises(NotImplementedError):
        BaseMaskRCNNHead()(None, [])


def test_mask_loss_weight():
    plain, weighted = (
        MaskRCNNConvUpsampleHead(
            ShapeSpec(channels=6), num_classes=CLASSES, conv_dims=[4], loss_weight=weight
        )
        for weight in (1.0, 3.0)
    )
    weighted.load_state_dict(plain.state_dict())
    x = torch.randn(2, 6, 4, 4)
    with EventStorage():
        first = plain(x, [mask_proposals()])["loss_mask"]
        second = weighted(x, [mask_proposals()])["loss_mask"]
    torch.testing.assert_close(second, 3 * first)


# --- all together


def test_training_step():
    heads = build_heads()
    with EventStorage():
        proposals, losses = heads(
            None, features(), [make_proposals(), make_proposals(seed=5)], [ground_truth()] * 2
        )
    assert list(losses) == ["loss_cls", "loss_box_reg", "loss_mask"]
    assert [len(p) for p in proposals] == [16, 16]
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in heads.parameters())
    with pytest.raises(AssertionError, match="targets"):
        heads(None, features(), [make_proposals()] * 2)


@pytest.mark.parametrize("num_gt, num_proposals", [(0, 30), (0, 0), (2, 0)])
def test_training_step_with_little(num_gt, num_proposals):
    heads = build_heads()
    with EventStorage():
        _, losses = heads(
            None, features(), [make_proposals(num_proposals)] * 2, [ground_truth(num_gt)] * 2
        )
    total = sum(losses.values())
    assert torch.isfinite(total)
    if num_gt == 0:
        assert losses["loss_mask"].item() == losses["loss_box_reg"].item() == 0
    total.backward()


def test_training_on_predicted_boxes():
    heads = build_heads(train_on_pred_boxes=True)
    nn.init.normal_(heads.box_predictor.bbox_pred.weight, std=0.5)
    before = [make_proposals(), make_proposals(seed=5)]
    with EventStorage():
        proposals, losses = heads(None, features(), before, [ground_truth()] * 2)
    known = torch.cat([p.proposal_boxes.tensor for p in before] + [ground_truth().gt_boxes.tensor])
    moved = proposals[0].proposal_boxes.tensor
    assert not (moved[:, None] == known).all(-1).any()
    assert not moved.requires_grad
    losses["loss_mask"].backward()
    # The boxes are constants to the mask branch
    assert heads.box_predictor.bbox_pred.weight.grad is None


def test_detection():
    heads = build_heads().eval()
    with torch.no_grad():
        instances, losses = heads(None, features(), [make_proposals(), make_proposals(0)])
    assert losses == {}
    assert 0 < len(instances[0]) <= 100 and len(instances[1]) == 0
    assert set(instances[0].get_fields()) == {"pred_boxes", "scores", "pred_classes", "pred_masks"}
    assert instances[0].pred_masks.shape[1:] == (1, 12, 12)
    assert instances[1].pred_masks.shape == (0, 1, 12, 12)
    given = Instances(
        SIZE, pred_boxes=instances[0].pred_boxes, pred_classes=instances[0].pred_classes
    )
    again = heads.forward_with_given_boxes(features(), [given, instances[1]])
    torch.testing.assert_close(again[0].pred_masks, instances[0].pred_masks)


def test_without_masks():
    heads = build_heads(mask_in_features=None, mask_pooler=None, mask_head=None)
    assert not heads.mask_on and not heads.keypoint_on
    with EventStorage():
        _, losses = heads(None, features(), [make_proposals()] * 2, [ground_truth()] * 2)
    assert list(losses) == ["loss_cls", "loss_box_reg"]
    instances, _ = heads.eval()(None, features(), [make_proposals()] * 2)
    assert not instances[0].has("pred_masks")


class RawMaskHead(nn.Module):
    def forward(self, x, instances):
        self.seen = x
        return instances


def test_mask_head_without_pooler_gets_the_maps():
    heads = build_heads(mask_in_features=["p3"], mask_pooler=None, mask_head=RawMaskHead()).eval()
    maps = features()
    heads(None, maps, [make_proposals()] * 2)
    assert heads.mask_head.seen == {"p3": maps["p3"]}


def test_names_of_parameters():
    prefixes = {k.rsplit(".", 1)[0] for k in build_heads().state_dict()}
    assert prefixes == {
        "box_head.fc1",
        "box_predictor.cls_score",
        "box_predictor.bbox_pred",
        "mask_head.mask_fcn1",
        "mask_head.deconv",
        "mask_head.predictor",
    }


def test_keypoints_are_elsewhere():
    with pytest.raises(NotImplementedError, match="detectron2"):
        build_heads(keypoint_in_features=["p2"])


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_scripted_heads_equal_eager():
    head = FastRCNNConvFCHead(ShapeSpec(6, 5, 5), conv_dims=[4], fc_dims=[8])
    x = torch.randn(2, 6, 5, 5)
    assert torch.equal(torch.jit.script(head)(x), head(x))
    layers = predictor()
    y = torch.randn(2, 8)
    assert torch.equal(torch.jit.script(layers)(y)[0], layers(y)[0])
