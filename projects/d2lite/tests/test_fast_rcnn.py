"""Scores and boxes of regions: losses and inference."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import (
    FastRCNNOutputLayers,
)
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from projects.d2lite.tests.roi_heads_parts import (
    CLASSES,
    SIZE,
    make_proposals,
    predictor,
)


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
