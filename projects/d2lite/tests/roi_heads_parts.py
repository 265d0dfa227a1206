"""Small region heads, and inputs for them."""

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)
from detectron2.structures import BitMasks, Boxes, Instances

SIZE = (40, 60)
CLASSES = 3


def predictor(**options):
    torch.manual_seed(0)
    arguments = {
        "box2box_transform": Box2BoxTransform(weights=(10, 10, 5, 5)),
        "num_classes": CLASSES,
    }
    return FastRCNNOutputLayers(ShapeSpec(channels=8), **(arguments | options))


def build_heads(**options):
    torch.manual_seed(0)
    scales = (1 / 4, 1 / 8)
    arguments = {
        "num_classes": CLASSES,
        "batch_size_per_image": 16,
        "positive_fraction": 0.25,
        "proposal_matcher": Matcher([0.5], [0, 1]),
        "box_in_features": ["p2", "p3"],
        "box_pooler": ROIPooler(5, scales, 0, "ROIAlignV2"),
        "box_head": FastRCNNConvFCHead(ShapeSpec(6, 5, 5), conv_dims=[], fc_dims=[8]),
        "box_predictor": predictor(test_score_thresh=0.0),
        "mask_in_features": ["p2", "p3"],
        "mask_pooler": ROIPooler(6, scales, 0, "ROIAlignV2"),
        "mask_head": MaskRCNNConvUpsampleHead(
            ShapeSpec(6, 6, 6), num_classes=CLASSES, conv_dims=[4, 4]
        ),
    }
    return StandardROIHeads(**(arguments | options))


def features():
    generator = torch.Generator().manual_seed(2)
    return {
        "p2": torch.randn(2, 6, 10, 15, generator=generator),
        "p3": torch.randn(2, 6, 5, 8, generator=generator),
    }


def make_proposals(n=30, seed=3):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * torch.tensor([30.0, 20])
    side = 5 + torch.rand(n, 2, generator=generator) * 20
    return Instances(
        SIZE,
        proposal_boxes=Boxes(torch.cat((corner, corner + side), dim=1)),
        objectness_logits=torch.randn(n, generator=generator),
    )


def ground_truth(n=2):
    boxes = torch.tensor([[2.0, 3, 22, 20], [20, 10, 40, 35]])[:n]
    masks = torch.zeros(n, *SIZE, dtype=torch.bool)
    for mask, box in zip(masks, boxes.int().tolist(), strict=True):
        mask[box[1] : box[3], box[0] : box[2]] = True
    return Instances(
        SIZE,
        gt_boxes=Boxes(boxes),
        gt_classes=torch.tensor([1, 2])[:n],
        gt_masks=BitMasks(masks),
        other=torch.arange(n),
    )
