"""Panoptic FPN on LVT, with the published sizes: 5,349,770 parameters for COCO's classes."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)

from lvt_d2.layers import group_norm
from lvt_d2.modeling import (
    LVT,
    FlooredMatcher,
    MergePanopticFPN,
    PanopticFastRCNNOutputLayers,
    PanopticSemSegHead,
    SymmetricBox2BoxTransform,
)

model = L(MergePanopticFPN)(
    backbone=L(FPN)(
        bottom_up=L(LVT)(out_features=("res2", "res3", "res4", "res5")),
        in_features="${.bottom_up.out_features}",
        out_channels=96,
        top_block=L(LastLevelMaxPool)(),
    ),
    proposal_generator=L(RPN)(
        in_features=("p2", "p3", "p4", "p5", "p6"),
        head=L(StandardRPNHead)(in_channels="${...backbone.out_channels}", num_anchors=3),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=((32,), (64,), (128,), (256,), (512,)),
            aspect_ratios=(0.5, 1.0, 2.0),
            strides=(4, 8, 16, 32, 64),
            offset=0.0,
        ),
        # Detectron2: Matcher with low-quality matches of any overlap
        anchor_matcher=L(FlooredMatcher)(
            thresholds=(0.3, 0.7), labels=(0, -1, 1), low_quality_floor=0.3
        ),
        # Detectron2: Box2BoxTransform, which clamps the upper side only
        box2box_transform=L(SymmetricBox2BoxTransform)(weights=(1.0, 1.0, 1.0, 1.0)),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=(2000, 1000),
        post_nms_topk=(1000, 1000),
        nms_thresh=0.7,
    ),
    roi_heads=L(StandardROIHeads)(
        num_classes=80,
        batch_size_per_image=512,
        positive_fraction=0.25,
        # Detectron2: Matcher without low-quality matches
        proposal_matcher=L(FlooredMatcher)(thresholds=(0.5,), labels=(0, 1), low_quality_floor=0.5),
        box_in_features=("p2", "p3", "p4", "p5"),
        box_pooler=L(ROIPooler)(
            output_size=7,
            scales=(1.0 / 4, 1.0 / 8, 1.0 / 16, 1.0 / 32),
            sampling_ratio=0,
            pooler_type="ROIAlignV2",
        ),
        box_head=L(FastRCNNConvFCHead)(
            input_shape=L(ShapeSpec)(channels="${....backbone.out_channels}", height=7, width=7),
            conv_dims=(),
            fc_dims=(160, 160),
        ),
        # Detectron2: FastRCNNOutputLayers, whose detections the merge takes above a score of 0.5
        box_predictor=L(PanopticFastRCNNOutputLayers)(
            input_shape=L(ShapeSpec)(channels=160),
            test_score_thresh=0.05,
            merge_score_thresh=0.6,
            merge_nms_thresh=0.5,
            box2box_transform=L(SymmetricBox2BoxTransform)(weights=(10, 10, 5, 5)),
            num_classes="${..num_classes}",
        ),
        mask_in_features="${.box_in_features}",
        mask_pooler=L(ROIPooler)(
            output_size=14,
            scales="${..box_pooler.scales}",
            sampling_ratio=0,
            pooler_type="ROIAlignV2",
        ),
        mask_head=L(MaskRCNNConvUpsampleHead)(
            input_shape=L(ShapeSpec)(channels="${....backbone.out_channels}", height=14, width=14),
            num_classes="${..num_classes}",
            conv_dims=(96, 96, 96, 96, 96),
        ),
    ),
    sem_seg_head=L(PanopticSemSegHead)(
        input_shape={
            name: L(ShapeSpec)(channels="${....backbone.out_channels}", stride=stride)
            for name, stride in (("p2", 4), ("p3", 8), ("p4", 16), ("p5", 32))
        },
        num_classes=54,  # 53 stuff classes, and class 0 for all things
        conv_dims=48,
        common_stride=4,
        norm=L(group_norm)(num_groups=12),
        ignore_value=255,
        loss_weight=0.5,
        # Detectron2: both False
        loss_at_stride=True,
        mean_over_ignored=True,
    ),
    combine_overlap_thresh=0.5,
    combine_stuff_area_thresh=4096,
    # The box predictor has chosen already; with Detectron2's predictor this is 0.5.
    combine_instances_score_thresh=0.0,
    pixel_mean=(123.675, 116.28, 103.53),
    pixel_std=(58.395, 57.12, 57.375),
    input_format="RGB",
)
