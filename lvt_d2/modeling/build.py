"""Builders by name for users of YAML configs: ``MODEL.BACKBONE.NAME: build_lvt_fpn_backbone``.

``MODEL.BACKBONE.FREEZE_AT`` is 2 by default in ``get_cfg``, which freezes the patch embedding and
res2, as for Detectron2's ResNets; set it to 0 to train all of the network, as when it is trained
from scratch.
"""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from lvt_d2.modeling.lvt import LVT, STAGES


def lvt_defaults() -> CfgNode:
    """Defaults of the keys under ``MODEL.LVT``; LVT's docstring explains them."""
    return CfgNode(
        {
            "EMBED_DIMS": [64, 64, 160, 256],
            "DEPTHS": [2, 2, 2, 2],
            "NUM_HEADS": [2, 2, 5, 8],
            "MLP_RATIOS": [4, 8, 4, 4],
            "SR_RATIOS": [4, 2, 1],
            "ATROUS_RATES": [1, 3, 5],
            "RECURSIONS": 2,
            "DROP_PATH_RATE": 0.0,
            "OUT_FEATURES": list(STAGES),
            "USE_CHECKPOINT": False,
        }
    )


def add_lvt_config(cfg: CfgNode) -> None:
    """Add ``MODEL.LVT`` to a config made by ``get_cfg``, so that a YAML file can set its keys."""
    cfg.MODEL.LVT = lvt_defaults()


@BACKBONE_REGISTRY.register()
def build_lvt_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> LVT:
    """LVT from ``MODEL.LVT`` and ``MODEL.BACKBONE.FREEZE_AT``.

    A config without ``MODEL.LVT`` gets the published network.
    """
    lvt = cfg.MODEL.get("LVT") or lvt_defaults()
    arguments = {key.lower(): value for key, value in lvt.items()}
    freeze_at = cfg.MODEL.BACKBONE.FREEZE_AT
    return LVT(in_chans=input_shape.channels, freeze_at=freeze_at, **arguments)


@BACKBONE_REGISTRY.register()
def build_lvt_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """LVT under a feature pyramid ``p2..p6``, from ``MODEL.LVT`` and ``MODEL.FPN``."""
    return FPN(
        bottom_up=build_lvt_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES or cfg.MODEL.get("LVT", lvt_defaults()).OUT_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
