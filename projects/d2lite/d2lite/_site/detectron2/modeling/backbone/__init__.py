"""Feature extractors."""

# ruff: noqa: F401
from detectron2 import _scope

from .backbone import Backbone
from .build import BACKBONE_REGISTRY, build_backbone
from .fpn import FPN, LastLevelMaxPool, LastLevelP6P7

__getattr__ = _scope.missing_attribute(__name__)
