"""Masks of regions: losses and inference."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import (
    MaskRCNNConvUpsampleHead,
)
from detectron2.modeling.roi_heads.mask_head import (
    BaseMaskRCNNHead,
    mask_rcnn_inference,
    mask_rcnn_loss,
)
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from projects.d2lite.tests.roi_heads_parts import (
    CLASSES,
    SIZE,
    ground_truth,
)


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
