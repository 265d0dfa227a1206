"""The model whose numbers `goldens/engine` holds, built with keyword arguments."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    FPN,
    Backbone,
    FastRCNNOutputLayers,
    PanopticFPN,
    StandardROIHeads,
)
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import SemSegFPNHead
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, MaskRCNNConvUpsampleHead
from torch import nn
from torch.nn import functional as F

CHANNELS = {"res2": 64, "res3": 64, "res4": 160, "res5": 256}
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
EVERY_SAMPLE = 1_000_000


class PlainBackbone(Backbone):
    """Four convolutions with ReLU."""

    def __init__(self, channels=CHANNELS):
        super().__init__()
        self._out_features = list(channels)
        self._out_feature_channels = dict(channels)
        self._out_feature_strides = {f: STRIDES[f] for f in channels}
        before = 3
        for i, (width, stride) in enumerate(
            zip(channels.values(), (4, 2, 2, 2), strict=False), start=2
        ):
            self.add_module(f"conv{i}", nn.Conv2d(before, width, 3, stride, 1))
            before = width

    def forward(self, x):
        outputs = {}
        for i, name in enumerate(self._out_features, start=2):
            x = F.relu(self.get_submodule(f"conv{i}")(x))
            outputs[name] = x
        return outputs


def build_panoptic_fpn() -> PanopticFPN:
    levels = [f"p{i}" for i in range(2, 7)]
    roi_scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    heads = StandardROIHeads(
        num_classes=80,
        batch_size_per_image=EVERY_SAMPLE,
        positive_fraction=0.25,
        proposal_matcher=Matcher([0.5], [0, 1], allow_low_quality_matches=False),
        box_in_features=levels[:4],
        box_pooler=ROIPooler(7, roi_scales, sampling_ratio=0, pooler_type="ROIAlignV2"),
        box_head=FastRCNNConvFCHead(ShapeSpec(96, 7, 7), conv_dims=[], fc_dims=[160, 160]),
        box_predictor=FastRCNNOutputLayers(
            ShapeSpec(channels=160),
            test_score_thresh=0.05,
            box2box_transform=Box2BoxTransform(weights=(10, 10, 5, 5)),
            num_classes=80,
        ),
        mask_in_features=levels[:4],
        mask_pooler=ROIPooler(14, roi_scales, sampling_ratio=0, pooler_type="ROIAlignV2"),
        mask_head=MaskRCNNConvUpsampleHead(
            ShapeSpec(96, 14, 14), num_classes=80, conv_dims=[96] * 5
        ),
    )
    rpn = RPN(
        in_features=levels,
        head=StandardRPNHead(in_channels=96, num_anchors=3),
        anchor_generator=DefaultAnchorGenerator(
            sizes=[[32], [64], [128], [256], [512]],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
            offset=0.0,
        ),
        anchor_matcher=Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=Box2BoxTransform(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=EVERY_SAMPLE,
        positive_fraction=0.5,
        pre_nms_topk=(2000, 1000),
        post_nms_topk=(1000, 1000),
        nms_thresh=0.7,
    )
    return PanopticFPN(
        backbone=FPN(PlainBackbone(), list(CHANNELS), 96, top_block=LastLevelMaxPool()),
        proposal_generator=rpn,
        roi_heads=heads,
        sem_seg_head=SemSegFPNHead(
            {f: ShapeSpec(channels=96, stride=2 ** int(f[1])) for f in levels[:4]},
            num_classes=54,
            conv_dims=48,
            common_stride=4,
            loss_weight=0.5,
            norm=partial(nn.GroupNorm, 12),
            ignore_value=255,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
        input_format="RGB",
        combine_overlap_thresh=0.5,
        combine_stuff_area_thresh=200,
        combine_instances_score_thresh=0.3,
    )


def load_reference_weights(model: nn.Module, engine: Path, synth) -> None:
    """Fill the model with the synthetic weights, strictly."""
    keys = json.loads((engine / "keys.json").read_text())
    state = {k: torch.from_numpy(synth.synth(k, shape, kind)) for k, (shape, kind) in keys.items()}
    assert list(keys) == list(model.state_dict())
    model.load_state_dict(state, strict=True)


def training_inputs(arrays) -> list[dict]:
    """The two training images, from the arrays of ``panoptic_fpn.npz``."""
    from detectron2.structures import BitMasks, Boxes, Instances

    inputs = []
    for i in range(2):
        image = arrays[f"train_image{i}"]
        size = image.shape[1:]
        instances = Instances(size)
        instances.gt_boxes = Boxes(torch.from_numpy(arrays[f"train_boxes{i}"]))
        instances.gt_classes = torch.from_numpy(arrays[f"train_classes{i}"])
        count = len(instances.gt_classes)
        bits = np.unpackbits(arrays[f"train_masks{i}"])[: count * size[0] * size[1]]
        instances.gt_masks = BitMasks(torch.from_numpy(bits.reshape(count, *size)).bool())
        inputs.append(
            {
                "image": torch.from_numpy(image),
                "instances": instances,
                "sem_seg": torch.from_numpy(arrays[f"train_sem{i}"]).long(),
            }
        )
    return inputs
