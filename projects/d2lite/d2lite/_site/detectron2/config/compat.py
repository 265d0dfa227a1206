"""Conversion of yacs configs between versions, by renaming keys."""

import logging

from detectron2.config.config import CfgNode as CN
from detectron2.config.defaults import _C

__all__ = ["upgrade_config", "downgrade_config"]

# Version -> (old key, new key) of what it renamed.
_RENAMED = {
    1: [("MODEL.RPN_HEAD.NAME", "MODEL.RPN.HEAD_NAME")],
    2: [
        ("MODEL.WEIGHT", "MODEL.WEIGHTS"),
        ("MODEL.PANOPTIC_FPN.SEMANTIC_LOSS_SCALE", "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT"),
        ("MODEL.PANOPTIC_FPN.RPN_LOSS_SCALE", "MODEL.RPN.LOSS_WEIGHT"),
        (
            "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_SCALE",
            "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT",
        ),
        ("MODEL.PANOPTIC_FPN.COMBINE_ON", "MODEL.PANOPTIC_FPN.COMBINE.ENABLED"),
        (
            "MODEL.PANOPTIC_FPN.COMBINE_OVERLAP_THRESHOLD",
            "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH",
        ),
        (
            "MODEL.PANOPTIC_FPN.COMBINE_STUFF_AREA_LIMIT",
            "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT",
        ),
        (
            "MODEL.PANOPTIC_FPN.COMBINE_INSTANCES_CONFIDENCE_THRESHOLD",
            "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH",
        ),
        ("MODEL.ROI_HEADS.SCORE_THRESH", "MODEL.ROI_HEADS.SCORE_THRESH_TEST"),
        ("MODEL.ROI_HEADS.NMS", "MODEL.ROI_HEADS.NMS_THRESH_TEST"),
        ("MODEL.RETINANET.INFERENCE_SCORE_THRESHOLD", "MODEL.RETINANET.SCORE_THRESH_TEST"),
        ("MODEL.RETINANET.INFERENCE_TOPK_CANDIDATES", "MODEL.RETINANET.TOPK_CANDIDATES_TEST"),
        ("MODEL.RETINANET.INFERENCE_NMS_THRESHOLD", "MODEL.RETINANET.NMS_THRESH_TEST"),
        ("TEST.DETECTIONS_PER_IMG", "TEST.DETECTIONS_PER_IMAGE"),
        ("TEST.AUG_ON", "TEST.AUG.ENABLED"),
        ("TEST.AUG_MIN_SIZES", "TEST.AUG.MIN_SIZES"),
        ("TEST.AUG_MAX_SIZE", "TEST.AUG.MAX_SIZE"),
        ("TEST.AUG_FLIP", "TEST.AUG.FLIP"),
    ],
}
_ANCHOR_KEYS = ("ASPECT_RATIOS", "SIZES")


def upgrade_config(cfg: CN, to_version: int | None = None) -> CN:
    """Copy of `cfg` at a newer version; the latest by default."""
    cfg = cfg.clone()
    target = _C.VERSION if to_version is None else to_version
    assert cfg.VERSION <= target, f"Cannot upgrade from v{cfg.VERSION} to v{target}!"
    for version in range(cfg.VERSION + 1, target + 1):
        for old, new in _RENAMED[version]:
            _rename(cfg, old, new)
        if version == 2:
            _share_anchors(cfg)
        cfg.VERSION = version
    return cfg


def downgrade_config(cfg: CN, to_version: int) -> CN:
    """Copy of `cfg` at an older version; values that it can't express are lost."""
    cfg = cfg.clone()
    assert cfg.VERSION >= to_version, f"Cannot downgrade from v{cfg.VERSION} to v{to_version}!"
    for version in range(cfg.VERSION, to_version, -1):
        for old, new in reversed(_RENAMED[version]):
            _rename(cfg, new, old)
        if version == 2:
            _split_anchors(cfg)
        cfg.VERSION = version - 1
    return cfg


def guess_version(cfg: CN, filename: str) -> int:
    """Version of a config that doesn't say it, from the keys that it has."""
    is_v1 = any(_has(cfg, key) for key in ("MODEL.WEIGHT", "TEST.AUG_ON"))
    version = 1 if is_v1 else _C.VERSION
    guess = "to be v1" if is_v1 else f"to be compatible with latest v{version}"
    logging.getLogger(__name__).warning(f"Config '{filename}' has no VERSION. Assuming it {guess}.")
    return version


def _share_anchors(cfg: CN) -> None:
    """Move the one of two sets of anchors that is in use into the shared node; drop the other."""
    retina = cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
    used, unused = ("RETINANET", "RPN") if retina else ("RPN", "RETINANET")
    for key in _ANCHOR_KEYS:
        _rename(cfg, f"MODEL.{used}.ANCHOR_{key}", f"MODEL.ANCHOR_GENERATOR.{key}")
        del cfg.MODEL[unused][f"ANCHOR_{key}"]
    del cfg.MODEL.RETINANET["ANCHOR_STRIDES"]


def _split_anchors(cfg: CN) -> None:
    for key in _ANCHOR_KEYS:
        _rename(cfg, f"MODEL.ANCHOR_GENERATOR.{key}", f"MODEL.RPN.ANCHOR_{key}")
        cfg.MODEL.RETINANET[f"ANCHOR_{key}"] = cfg.MODEL.RPN[f"ANCHOR_{key}"]
    cfg.MODEL.RETINANET.ANCHOR_STRIDES = []  # no version reads it


def _has(cfg: CN, key: str) -> bool:
    for part in key.split("."):
        if part not in cfg:
            return False
        cfg = cfg[part]
    return True


def _rename(cfg: CN, old: str, new: str) -> None:
    """Move a value, making the nodes it needs and removing those it leaves empty."""
    *parents, leaf = old.split(".")
    path = [cfg]
    for part in parents:
        path.append(path[-1][part])
    value = path[-1].pop(leaf)

    *new_parents, new_leaf = new.split(".")
    node = cfg
    for part in new_parents:
        node = node.setdefault(part, CN())
    node[new_leaf] = value

    for node, part in zip(reversed(path[:-1]), reversed(parents), strict=True):
        if node[part]:
            break
        del node[part]
