"""Panoptic FPN: Mask R-CNN with FPN and a semantic head."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling import PanopticFPN
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead

from .mask_rcnn_fpn import model

model._target_ = PanopticFPN
model.sem_seg_head = L(SemSegFPNHead)(
    input_shape={
        level: L(ShapeSpec)(stride=stride, channels="${....backbone.out_channels}")
        for level, stride in zip(["p2", "p3", "p4", "p5"], [4, 8, 16, 32], strict=True)
    },
    ignore_value=255,
    num_classes=54,  # COCO's stuff, and one for all things
    conv_dims=128,
    common_stride=4,
    loss_weight=0.5,
    norm="GN",
)
model.combine_overlap_thresh = 0.5
model.combine_stuff_area_thresh = 4096
model.combine_instances_score_thresh = 0.5
