"""LVT for YAML users."""

import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone

from lvt_d2.modeling import add_lvt_config


def test_builders_by_name():
    cfg = get_cfg()
    add_lvt_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_lvt_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.FPN.OUT_CHANNELS = 96
    cfg.MODEL.LVT.DEPTHS = [1, 1, 1, 1]
    backbone = build_backbone(cfg)
    assert list(backbone.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    assert [len(s.blocks) for s in backbone.bottom_up.stages] == [1, 1, 1, 1]
    assert backbone(torch.zeros(1, 3, 64, 64))["p6"].shape == (1, 96, 1, 1)


def test_plain_config_gets_the_published_network():
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_lvt_backbone"
    backbone = build_backbone(cfg)
    assert sum(p.numel() for p in backbone.parameters()) == 3_429_092
    frozen = [n for n, p in backbone.named_parameters() if not p.requires_grad]
    assert frozen and all(n.startswith("stages.0.") for n in frozen)  # FREEZE_AT is 2 by default
