"""Feature extractors."""

# ruff: noqa: F401
from detectron2._scope import missing_attribute

from .backbone import Backbone
from .build import BACKBONE_REGISTRY, build_backbone
from .fpn import FPN, LastLevelMaxPool, LastLevelP6P7

__all__ = [name for name in globals() if not name.startswith("_") and name != "missing_attribute"]
__getattr__ = missing_attribute(__name__)
