"""Region heads: sampling, the box head, and all of them together."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    ROIHeads,
    select_foreground_proposals,
)
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn import functional as F

from projects.d2lite.tests.roi_heads_parts import (
    CLASSES,
    SIZE,
    build_heads,
    features,
    ground_truth,
    make_proposals,
    predictor,
)


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


def test_no_images():
    maps = {name: value[:0] for name, value in features().items()}
    assert build_heads().eval()._forward_box(maps, []) == []
    with EventStorage():
        losses = build_heads()._forward_box(maps, [])
    assert sum(losses.values()).item() == 0


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
