"""Models built from LazyConfig, whose lists and dictionaries are omegaconf's."""

from functools import partial

import torch
from detectron2.config import LazyCall as L, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, FastRCNNOutputLayers, PanopticFPN, StandardROIHeads
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import SemSegFPNHead
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, MaskRCNNConvUpsampleHead
from detectron2.utils.events import EventStorage
from torch import nn

from projects.d2lite.tests.panoptic_reference import PlainBackbone
from projects.d2lite.tests.test_panoptic_fpn import training_input

LEVELS = ["p2", "p3", "p4", "p5"]


def lazy_model():
    """As Detectron2's common/models/panoptic_fpn.py, narrow."""

    def pooler(side):
        return L(ROIPooler)(
            output_size=side,
            scales=(1.0 / 4, 1.0 / 8, 1.0 / 16, 1.0 / 32),
            sampling_ratio=0,
            pooler_type="ROIAlignV2",
        )

    return L(PanopticFPN)(
        backbone=L(FPN)(
            bottom_up=L(PlainBackbone)(channels={"res2": 4, "res3": 4, "res4": 8, "res5": 8}),
            in_features=["res2", "res3", "res4", "res5"],
            out_channels=8,
            top_block=L(LastLevelMaxPool)(),
        ),
        proposal_generator=L(RPN)(
            in_features=[*LEVELS, "p6"],
            head=L(StandardRPNHead)(in_channels=8, num_anchors=3, conv_dims=[-1]),
            anchor_generator=L(DefaultAnchorGenerator)(
                sizes=[[32], [64], [128], [256], [512]],
                aspect_ratios=[0.5, 1.0, 2.0],
                strides=[4, 8, 16, 32, 64],
                offset=0.0,
            ),
            anchor_matcher=L(Matcher)(
                thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
            ),
            box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
            batch_size_per_image=64,
            positive_fraction=0.5,
            pre_nms_topk=(200, 100),
            post_nms_topk=(50, 50),
            loss_weight={"loss_rpn_cls": 1.0, "loss_rpn_loc": 2.0},
        ),
        roi_heads=L(StandardROIHeads)(
            num_classes=5,
            batch_size_per_image=32,
            positive_fraction=0.25,
            proposal_matcher=L(Matcher)(thresholds=[0.5], labels=[0, 1]),
            box_in_features=LEVELS,
            box_pooler=pooler(7),
            box_head=L(FastRCNNConvFCHead)(
                input_shape=ShapeSpec(channels=8, height=7, width=7), conv_dims=[], fc_dims=[16, 16]
            ),
            box_predictor=L(FastRCNNOutputLayers)(
                input_shape=ShapeSpec(channels=16),
                test_score_thresh=0.05,
                box2box_transform=L(Box2BoxTransform)(weights=(10, 10, 5, 5)),
                num_classes="${..num_classes}",
            ),
            mask_in_features=LEVELS,
            mask_pooler=pooler(14),
            mask_head=L(MaskRCNNConvUpsampleHead)(
                input_shape=ShapeSpec(channels=8, width=14, height=14),
                num_classes="${..num_classes}",
                conv_dims=[8, 8],
            ),
        ),
        sem_seg_head=L(SemSegFPNHead)(
            input_shape={f: L(ShapeSpec)(stride=2 ** int(f[1]), channels=8) for f in LEVELS},
            num_classes=6,
            conv_dims=12,
            common_stride=4,
            loss_weight=0.5,
            norm=partial(nn.GroupNorm, 4),
            ignore_value=255,
        ),
        pixel_mean=[103.53, 116.28, 123.675],
        pixel_std=[1.0, 1.0, 1.0],
        input_format="BGR",
    )


def test_panoptic_fpn_trains_and_predicts():
    model = instantiate(lazy_model())
    with EventStorage():
        losses = model([training_input()])
    assert len(losses) == 6
    sum(losses.values()).backward()
    with torch.no_grad():
        result = model.eval()([training_input()])[0]
    assert result["sem_seg"].shape == (6, 70, 100)
    assert model.roi_heads.mask_head.predictor.out_channels == 5
