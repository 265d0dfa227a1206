"""Region proposal network: labels, losses, choice of proposals."""

import math

import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform, Box2BoxTransformLinear
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.proposal_generator.proposal_utils import (
    add_ground_truth_to_proposals,
    find_top_rpn_proposals,
)
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn import functional as F

SIZES = [(64, 96), (50, 80)]


def build_rpn(**options):
    torch.manual_seed(0)
    arguments = {
        "in_features": ["p3", "p4"],
        "head": StandardRPNHead(in_channels=8, num_anchors=3),
        "anchor_generator": DefaultAnchorGenerator(
            sizes=[[16], [32]], aspect_ratios=[0.5, 1, 2], strides=[8, 16]
        ),
        "anchor_matcher": Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        "box2box_transform": Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        "batch_size_per_image": 40,
        "positive_fraction": 0.5,
        "pre_nms_topk": (200, 100),
        "post_nms_topk": (50, 20),
    }
    return RPN(**(arguments | options))


def inputs(num_boxes=(2, 3)):
    generator = torch.Generator().manual_seed(1)
    images = ImageList(torch.zeros(2, 3, 64, 96), SIZES)
    features = {
        "p3": torch.randn(2, 8, 8, 12, generator=generator),
        "p4": torch.randn(2, 8, 4, 6, generator=generator),
    }
    boxes = torch.tensor([[4.0, 5, 25, 22], [30, 10, 60, 45], [50, 30, 70, 44]])
    truth = [
        Instances(size, gt_boxes=Boxes(boxes[:n]), gt_classes=torch.zeros(n, dtype=torch.int64))
        for size, n in zip(SIZES, num_boxes, strict=True)
    ]
    return images, features, truth


@pytest.mark.parametrize("dims", [(-1,), (16,), (16, -1, 4)])
def test_head(dims):
    torch.manual_seed(0)
    head = StandardRPNHead(in_channels=8, num_anchors=3, box_dim=5, conv_dims=dims)
    logits, deltas = head([torch.randn(2, 8, 4, 6), torch.randn(2, 8, 2, 3)])
    assert [x.shape for x in logits] == [(2, 3, 4, 6), (2, 3, 2, 3)]
    assert [x.shape for x in deltas] == [(2, 15, 4, 6), (2, 15, 2, 3)]
    names = {k.rsplit(".", 1)[0] for k in head.state_dict()} - {"objectness_logits"}
    convs = {"conv"} if len(dims) == 1 else {"conv.conv0", "conv.conv1", "conv.conv2"}
    assert names == convs | {"anchor_deltas"}
    for layer in head.modules():
        if isinstance(layer, nn.Conv2d):
            if layer.weight.numel() > 200:
                assert layer.weight.std().item() == pytest.approx(0.01, rel=0.2)
            assert layer.bias.abs().max() == 0


def test_head_applies_relu_once():
    head = StandardRPNHead(in_channels=8, num_anchors=1)
    x = torch.randn(1, 8, 4, 4)
    hidden = F.relu(F.conv2d(x, head.conv.weight, head.conv.bias, padding=1))
    torch.testing.assert_close(head([x])[0][0], head.objectness_logits(hidden))


def test_head_refuses_no_channels():
    with pytest.raises(ValueError, match="greater than 0. Got 0"):
        StandardRPNHead(in_channels=8, num_anchors=1, conv_dims=(8, 0))


def test_labels_follow_the_matcher():
    rpn = build_rpn(batch_size_per_image=10_000, positive_fraction=1.0)
    _, features, truth = inputs()
    anchors = rpn.anchor_generator([features[f] for f in rpn.in_features])
    labels, boxes = rpn.label_and_sample_anchors(anchors, truth)
    flat = Boxes.cat(anchors)
    for labels_i, boxes_i, truth_i in zip(labels, boxes, truth, strict=True):
        iou = pairwise_iou(truth_i.gt_boxes, flat)
        best, index = iou.max(dim=0)
        expected = torch.full_like(labels_i, -1)
        expected[best < 0.3] = 0
        expected[best >= 0.7] = 1
        expected[(iou == iou.max(dim=1, keepdim=True).values).any(dim=0)] = 1
        assert torch.equal(labels_i, expected)
        positive = labels_i == 1
        matched = truth_i.gt_boxes.tensor[index]
        assert torch.equal(boxes_i[positive], matched[positive])


def test_sample_size_and_boundary():
    rpn = build_rpn(anchor_boundary_thresh=0.0)
    _, features, truth = inputs()
    anchors = rpn.anchor_generator([features[f] for f in rpn.in_features])
    labels, _ = rpn.label_and_sample_anchors(anchors, truth)
    flat = Boxes.cat(anchors)
    for labels_i, size in zip(labels, SIZES, strict=True):
        assert (labels_i >= 0).sum() <= 40
        assert (labels_i == 1).sum() <= 20
        outside = ~flat.inside_box(size, 0)
        assert outside.any() and (labels_i[outside] == -1).all()


def test_no_ground_truth():
    rpn = build_rpn()
    images, features, truth = inputs(num_boxes=(0, 0))
    with EventStorage() as storage:
        proposals, losses = rpn(images, features, truth)
        assert storage.latest()["rpn/num_pos_anchors"][0] == 0
        assert storage.latest()["rpn/num_neg_anchors"][0] == 40
    assert losses["loss_rpn_loc"].item() == 0
    assert losses["loss_rpn_cls"].item() == pytest.approx(math.log(2), rel=0.05)
    sum(losses.values()).backward()
    assert all(len(p) == 50 for p in proposals)


@pytest.mark.parametrize("kind", ["smooth_l1", "giou", "diou", "ciou"])
@pytest.mark.parametrize("transform", [Box2BoxTransform((1, 1, 1, 1)), Box2BoxTransformLinear()])
def test_every_loss_trains(kind, transform):
    rpn = build_rpn(box_reg_loss_type=kind, box2box_transform=transform)
    if isinstance(transform, Box2BoxTransformLinear):
        # Distances of 0 are boxes without area
        nn.init.constant_(rpn.rpn_head.anchor_deltas.bias, 0.5)
    with EventStorage():
        _, losses = rpn(*inputs())
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in rpn.parameters())
    assert rpn.rpn_head.anchor_deltas.weight.grad.abs().sum() > 0


def test_losses_in_closed_form():
    rpn = build_rpn(
        batch_size_per_image=10_000,
        positive_fraction=1.0,
        loss_weight={"loss_rpn_cls": 2.0, "loss_rpn_loc": 3.0},
        smooth_l1_beta=0.1,
    )
    images, features, truth = inputs()
    with EventStorage():
        _, losses = rpn(images, features, truth)
    maps = [features[f] for f in rpn.in_features]
    anchors = rpn.anchor_generator(maps)
    labels, boxes = rpn.label_and_sample_anchors(anchors, truth)
    logits, deltas = rpn.rpn_head(maps)
    flat = Boxes.cat(anchors).tensor
    cls = loc = 0.0
    for n in range(2):
        row = 0
        for level_logits, level_deltas in zip(logits, deltas, strict=True):
            height, width = level_logits.shape[-2:]
            for y in range(height):
                for x in range(width):
                    for a in range(3):
                        label = labels[n][row].item()
                        if label >= 0:
                            score = level_logits[n, a, y, x]
                            cls += F.softplus(score if label == 0 else -score).item()
                        if label == 1:
                            target = rpn.box2box_transform.get_deltas(
                                flat[row : row + 1], boxes[n][row : row + 1]
                            )[0]
                            predicted = level_deltas[n, 4 * a : 4 * a + 4, y, x]
                            loc += F.smooth_l1_loss(
                                predicted, target, beta=0.1, reduction="sum"
                            ).item()
                        row += 1
    assert losses["loss_rpn_cls"].item() == pytest.approx(2 * cls / 20_000, rel=1e-4)
    assert losses["loss_rpn_loc"].item() == pytest.approx(3 * loc / 20_000, rel=1e-4)


def test_loss_weight_of_a_missing_name_is_one():
    with EventStorage():
        plain = build_rpn()(*inputs())[1]
        weighted = build_rpn(loss_weight={"loss_rpn_loc": 4.0})(*inputs())[1]
        all_of_them = build_rpn(loss_weight=2)(*inputs())[1]
    assert weighted["loss_rpn_cls"].item() == pytest.approx(plain["loss_rpn_cls"].item())
    assert weighted["loss_rpn_loc"].item() == pytest.approx(4 * plain["loss_rpn_loc"].item())
    assert all_of_them["loss_rpn_cls"].item() == pytest.approx(2 * plain["loss_rpn_cls"].item())


def test_training_needs_ground_truth():
    images, features, _ = inputs()
    with pytest.raises(AssertionError, match="gt_instances"):
        build_rpn()(images, features)


def test_inference():
    rpn = build_rpn(min_box_size=2).eval()
    images, features, _ = inputs()
    proposals, losses = rpn(images, features)
    assert losses == {}
    for p, size in zip(proposals, SIZES, strict=True):
        assert p.image_size == size
        assert set(p.get_fields()) == {"proposal_boxes", "objectness_logits"}
        assert 0 < len(p) <= 20
        assert not p.proposal_boxes.tensor.requires_grad
        assert p.proposal_boxes.inside_box(size, 1).all()
        assert (p.objectness_logits.diff() <= 0).all()


def candidates():
    """Two levels of boxes in one image."""
    first = [[0.0, 0, 10, 10], [0, 0, 10, 11], [20, 20, 30, 30], [0, 0, 200, 10]]
    second = [[0.0, 0, 10, 10], [5, 5, 5.5, 9]]
    boxes = [torch.tensor([first]), torch.tensor([second])]
    return boxes, [torch.tensor([[1.0, 2, 3, 0]]), torch.tensor([[2.5, 9]])]


def find(pre=10, post=10, size=1.0, training=False, change=None):
    boxes, logits = candidates()
    if change:
        change(boxes, logits)
    return find_top_rpn_proposals(boxes, logits, [(40, 50)], 0.7, pre, post, size, training)[0]


def test_top_proposals():
    result = find()
    assert result.objectness_logits.tolist() == [3, 2.5, 2, 0]
    assert result.proposal_boxes.tensor.tolist() == [
        [20, 20, 30, 30],
        [0, 0, 10, 10],
        [0, 0, 10, 11],
        [0, 0, 50, 10],
    ]
    assert find(pre=1).objectness_logits.tolist() == [3]
    assert find(pre=1, size=0).objectness_logits.tolist() == [9, 3]
    assert find(post=2).objectness_logits.tolist() == [3, 2.5]


@pytest.mark.parametrize("where", ["boxes", "logits"])
def test_proposals_that_are_not_finite(where):
    def spoil(boxes, logits):
        if where == "boxes":
            boxes[0][0, 2, 0] = float("nan")
        else:
            logits[0][0, 2] = float("inf")

    assert find(change=spoil).objectness_logits.tolist() == [2.5, 2, 0]
    with pytest.raises(FloatingPointError, match="diverged"):
        find(change=spoil, training=True)


def test_no_candidates():
    empty = [torch.zeros(2, 0, 4)], [torch.zeros(2, 0)]
    results = find_top_rpn_proposals(*empty, SIZES, 0.7, 10, 10, 0, True)
    assert [len(r) for r in results] == [0, 0]
    assert results[0].proposal_boxes.tensor.shape == (0, 4)


@pytest.mark.parametrize("as_boxes", [True, False])
def test_ground_truth_joins_the_proposals(as_boxes):
    proposals = [find(), find()[:0]]
    boxes = [Boxes(torch.tensor([[1.0, 2, 3, 4]])), Boxes(torch.zeros(0, 4))]
    truth = (
        boxes
        if as_boxes
        else [Instances((40, 50), gt_boxes=b, gt_classes=torch.zeros(len(b))) for b in boxes]
    )
    first, second = add_ground_truth_to_proposals(truth, proposals)
    assert len(first) == 5 and len(second) == 0
    assert first.proposal_boxes.tensor[-1].tolist() == [1, 2, 3, 4]
    assert first.objectness_logits[-1].item() == pytest.approx(23.02585, abs=1e-3)
    assert set(first.get_fields()) == {"proposal_boxes", "objectness_logits"}


def test_bad_ground_truth():
    with pytest.raises(ValueError, match="same length"):
        add_ground_truth_to_proposals([], [find()])
    assert add_ground_truth_to_proposals([], []) == []
    with pytest.raises(AssertionError):
        add_ground_truth_to_proposals(None, [find()])
    extra = find()
    extra.colour = torch.zeros(4)
    with pytest.raises(AssertionError, match="'colour'"):
        add_ground_truth_to_proposals([Boxes(torch.zeros(1, 4))], [extra])


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("dims", [(-1,), (16, 4)])
def test_scripted_head_equals_eager(dims):
    head = StandardRPNHead(in_channels=8, num_anchors=3, conv_dims=dims)
    maps = [torch.randn(1, 8, 4, 4), torch.randn(1, 8, 2, 2)]
    for ours, theirs in zip(torch.jit.script(head)(maps), head(maps), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
