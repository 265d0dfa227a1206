"""The probe that counts: one training step of a detector on LVT, on the CPU."""

import contextlib
import io
import time

import lvt_d2
from lvt_d2._engine import way_out
from lvt_d2.doctor.advice import one_line, place
from lvt_d2.doctor.rows import PROBLEM, Row, check

SUBJECT = "training"


def training_step() -> list[Row]:
    """One step of Mask R-CNN on LVT with all its losses, through `lvt_d2.engine.Trainer`."""
    start = time.perf_counter()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            losses = _step()
    except BaseException as error:
        text = f"one step on the CPU fails: {one_line(error)} ({place(error)})"
        remedy = f"mend what the checks above name{way_out(lvt_d2.ENGINE)}"
        return [check(SUBJECT, text, PROBLEM, remedy)]
    seconds = time.perf_counter() - start
    names = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
    return [check(SUBJECT, f"one step of Mask R-CNN on LVT, CPU, {seconds:.1f} s: {names}")]


def _step() -> dict[str, float]:
    """Losses of one step, which has changed the weights."""
    import torch
    from detectron2.config import LazyCall as L, LazyConfig, instantiate
    from detectron2.solver import get_default_optimizer_params
    from detectron2.structures import BitMasks, Boxes, Instances

    from lvt_d2.engine import Trainer

    torch.manual_seed(0)
    objects = Instances((64, 96))
    objects.gt_boxes = Boxes(torch.tensor([[8.0, 8, 56, 56], [50, 20, 90, 60]]))
    objects.gt_classes = torch.tensor([0, 1])
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    masks[0, 8:56, 8:56] = masks[1, 20:60, 50:90] = True
    objects.gt_masks = BitMasks(masks)
    batch = [{"image": torch.randint(0, 256, (3, 64, 96)).float(), "instances": objects}]
    model = _detector().train()
    lvt = model.backbone.bottom_up
    before = {name: p.detach().clone() for name, p in lvt.named_parameters()}
    config = L(torch.optim.AdamW)(params=L(get_default_optimizer_params)(), lr=1.0)
    config = LazyConfig.apply_overrides(config, ["lr=1e-3"])
    config.params.model = model
    trainer = Trainer(model, [batch], instantiate(config))
    trainer.train(0, 1)
    unchanged = [name for name, p in lvt.named_parameters() if torch.equal(p, before[name])]
    if unchanged:
        raise ValueError(f"{len(unchanged)} parameters of LVT have not changed, as {unchanged[0]}")
    latest = trainer.storage.latest()
    return {name: value for name, (value, _) in latest.items() if "loss" in name}


def _detector():
    """Mask R-CNN on the published LVT, with heads as small as they can be."""
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import FPN, GeneralizedRCNN
    from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
    from detectron2.modeling.backbone.fpn import LastLevelMaxPool
    from detectron2.modeling.box_regression import Box2BoxTransform
    from detectron2.modeling.matcher import Matcher
    from detectron2.modeling.poolers import ROIPooler
    from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
    from detectron2.modeling.roi_heads import (
        FastRCNNConvFCHead,
        FastRCNNOutputLayers,
        MaskRCNNConvUpsampleHead,
        StandardROIHeads,
    )

    from lvt_d2.modeling import LVT

    maps, width = ["p2", "p3", "p4", "p5"], 16
    scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    backbone = FPN(LVT(), ["res2", "res3", "res4", "res5"], width, top_block=LastLevelMaxPool())
    proposals = RPN(
        in_features=[*maps, "p6"],
        head=StandardRPNHead(in_channels=width, num_anchors=1),
        anchor_generator=DefaultAnchorGenerator(
            sizes=[[16], [32], [64], [128], [256]],
            aspect_ratios=[1.0],
            strides=[4, 8, 16, 32, 64],
        ),
        anchor_matcher=Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        batch_size_per_image=32,
        positive_fraction=0.5,
        pre_nms_topk=(50, 50),
        post_nms_topk=(20, 20),
    )
    heads = StandardROIHeads(
        num_classes=2,
        batch_size_per_image=8,
        positive_fraction=0.5,
        proposal_matcher=Matcher([0.5], [0, 1], allow_low_quality_matches=False),
        box_in_features=maps,
        box_pooler=ROIPooler(7, scales, sampling_ratio=2, pooler_type="ROIAlignV2"),
        box_head=FastRCNNConvFCHead(
            ShapeSpec(channels=width, height=7, width=7), conv_dims=[], fc_dims=[16]
        ),
        box_predictor=FastRCNNOutputLayers(
            ShapeSpec(channels=16),
            box2box_transform=Box2BoxTransform(weights=(10, 10, 5, 5)),
            num_classes=2,
        ),
        mask_in_features=maps,
        mask_pooler=ROIPooler(7, scales, sampling_ratio=2, pooler_type="ROIAlignV2"),
        mask_head=MaskRCNNConvUpsampleHead(
            ShapeSpec(channels=width, height=7, width=7), num_classes=2, conv_dims=[16, 16]
        ),
    )
    return GeneralizedRCNN(
        backbone=backbone,
        proposal_generator=proposals,
        roi_heads=heads,
        pixel_mean=(123.675, 116.28, 103.53),
        pixel_std=(58.395, 57.12, 57.375),
    )
