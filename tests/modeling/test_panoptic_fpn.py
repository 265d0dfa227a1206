"""The merge takes its own detections, the output the others."""

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.structures import Boxes, Instances
from torch import nn

from lvt_d2.modeling import MergePanopticFPN

SIZE = (40, 48)


class FixedBackbone(nn.Module):
    size_divisibility = 32
    padding_constraints = {}

    def forward(self, x):
        return {"p2": x}


class FixedSemSeg(nn.Module):
    """Class 1 on the left half, class 2 on the right."""

    def forward(self, features, targets):
        logits = torch.zeros(1, 3, 64, 64)
        logits[:, 1, :, :24], logits[:, 2, :, 24:] = 1, 1
        return logits, {}


class FixedProposals(nn.Module):
    def forward(self, images, features, gt_instances=None):
        return [None], {}


class FixedHeads(nn.Module):
    """Two square detections; only the second is meant for the merge, unless unflagged."""

    def __init__(self, flagged):
        super().__init__()
        self.flagged = flagged

    def forward(self, images, features, proposals, targets=None):
        boxes = torch.tensor([[2.0, 2.0, 18.0, 18.0], [26.0, 6.0, 42.0, 30.0]])
        found = Instances(
            SIZE,
            pred_boxes=Boxes(boxes),
            scores=torch.tensor([0.9, 0.8]),
            pred_classes=torch.tensor([3, 5]),
            pred_masks=torch.ones(2, 1, 28, 28),
        )
        if self.flagged:
            found.for_detection = torch.tensor([True, False])
            found.for_merge = torch.tensor([False, True])
        return [found], {}


class StrideBackbone(FixedBackbone):
    def forward(self, x):
        return {"p2": x[:, :, ::4, ::4]}


def build(sem_seg_head, flagged=True):
    return MergePanopticFPN(
        sem_seg_head=sem_seg_head,
        combine_overlap_thresh=0.5,
        combine_stuff_area_thresh=10,
        combine_instances_score_thresh=0.0,
        backbone=FixedBackbone(),
        proposal_generator=FixedProposals(),
        roi_heads=FixedHeads(flagged),
        pixel_mean=(0.0, 0.0, 0.0),
        pixel_std=(1.0, 1.0, 1.0),
    ).eval()


def run(flagged, do_postprocess=True):
    model = build(FixedSemSeg(), flagged)
    return model.inference([{"image": torch.zeros(3, *SIZE)}], do_postprocess)


def test_flagged_detections_go_separate_ways():
    (result,) = run(flagged=True)
    assert result["instances"].pred_classes.tolist() == [3]
    assert set(result["instances"].get_fields()) == {
        "pred_boxes", "scores", "pred_classes", "pred_masks",
    }  # fmt: skip
    ids, segments = result["panoptic_seg"]
    things = [s for s in segments if s["isthing"]]
    assert [s["category_id"] for s in things] == [5]
    assert (ids == things[0]["id"]).sum() == 16 * 24
    assert sorted(s["category_id"] for s in segments if not s["isthing"]) == [1, 2]
    assert (ids[:, :24] == ids[0, 0]).all()  # the first detection is not in the map


def test_without_flags_it_is_the_parent():
    (result,) = run(flagged=False)
    assert result["instances"].pred_classes.tolist() == [3, 5]
    assert [s["category_id"] for s in result["panoptic_seg"][1] if s["isthing"]] == [3, 5]


def test_without_postprocessing():
    detections, logits = run(flagged=True, do_postprocess=False)
    assert len(detections[0]) == 2 and logits.shape == (1, 3, 64, 64)


def test_one_resize_or_two():
    """Logits of Detectron2's head are resized at once, others are resized as they come."""

    def results(head_class):
        torch.manual_seed(0)
        head = head_class(
            {"p2": ShapeSpec(channels=3, stride=4)},
            num_classes=3,
            conv_dims=8,
            common_stride=4,
            norm="",
        )
        model = build(head)
        model.backbone = StrideBackbone()
        image = torch.rand(3, *SIZE) * 9
        with torch.no_grad():
            (result,) = model.inference([{"image": image, "height": 50, "width": 91}])
        return result

    class OwnForward(SemSegFPNHead):
        def forward(self, features, targets=None):
            return super().forward(features, targets)

    at_once, in_two = results(SemSegFPNHead), results(OwnForward)
    torch.testing.assert_close(at_once["sem_seg"], in_two["sem_seg"], rtol=0, atol=1e-5)
    assert at_once["sem_seg"].shape == (3, 50, 91)
    maps = [result["panoptic_seg"][0] for result in (at_once, in_two)]
    assert maps[0].dtype == maps[1].dtype == torch.int32
    assert (maps[0] == maps[1]).float().mean() > 0.999
