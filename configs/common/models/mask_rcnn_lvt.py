"""Mask R-CNN on LVT: Detectron2's own classes, in the sizes of the published Panoptic FPN.

5,118,356 parameters for COCO's 80 classes. Their names are those of the panoptic model:
``train.init_checkpoint="panoptic_fpn_lvt_fpn_coco.pth?matching_heuristics=True"`` starts from it.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.roi_heads import FastRCNNOutputLayers

from .panoptic_fpn_lvt import model

model._target_ = GeneralizedRCNN
del model.sem_seg_head
del model.combine_overlap_thresh
del model.combine_stuff_area_thresh
del model.combine_instances_score_thresh

model.proposal_generator.anchor_matcher = L(Matcher)(
    thresholds=(0.3, 0.7), labels=(0, -1, 1), allow_low_quality_matches=True
)
model.proposal_generator.box2box_transform = L(Box2BoxTransform)(weights=(1.0, 1.0, 1.0, 1.0))
model.roi_heads.proposal_matcher = L(Matcher)(
    thresholds=(0.5,), labels=(0, 1), allow_low_quality_matches=False
)
model.roi_heads.box_predictor = L(FastRCNNOutputLayers)(
    input_shape=L(ShapeSpec)(channels="${...box_head.fc_dims.1}"),
    test_score_thresh=0.05,
    test_nms_thresh=0.5,
    test_topk_per_image=100,
    box2box_transform=L(Box2BoxTransform)(weights=(10, 10, 5, 5)),
    num_classes="${..num_classes}",
)
