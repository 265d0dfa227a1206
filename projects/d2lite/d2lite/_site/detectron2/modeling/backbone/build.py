"""Backbones by name."""

from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry

from .backbone import Backbone

# Callables of (cfg, input_shape: ShapeSpec) that return a `Backbone`.
BACKBONE_REGISTRY = Registry("BACKBONE")


def build_backbone(cfg, input_shape: ShapeSpec | None = None) -> Backbone:
    """Build the backbone named ``cfg.MODEL.BACKBONE.NAME``; by default for images as read."""
    if input_shape is None:
        input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    name = cfg.MODEL.BACKBONE.NAME
    backbone = BACKBONE_REGISTRY.get(name)(cfg, input_shape)
    assert isinstance(backbone, Backbone), f"'{name}' built a {type(backbone)}, not a Backbone"
    return backbone
