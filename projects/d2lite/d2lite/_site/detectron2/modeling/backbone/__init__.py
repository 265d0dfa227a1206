"""Feature extractors."""

from detectron2._scope import missing_attribute

from .backbone import Backbone
from .build import BACKBONE_REGISTRY, build_backbone
from .fpn import FPN, LastLevelMaxPool, LastLevelP6P7

__all__ = [
    "BACKBONE_REGISTRY",
    "FPN",
    "Backbone",
    "LastLevelMaxPool",
    "LastLevelP6P7",
    "build_backbone",
]

__getattr__ = missing_attribute(__name__)
