"""Backbones by name."""

from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry

from .backbone import Backbone

BACKBONE_REGISTRY = Registry("BACKBONE")
BACKBONE_REGISTRY.__doc__ = """
Registry of backbones: callables of ``(cfg, input_shape: ShapeSpec)`` that return a `Backbone`.
"""


def build_backbone(cfg, input_shape: ShapeSpec | None = None) -> Backbone:
    """Build the backbone named ``cfg.MODEL.BACKBONE.NAME``; by default for images as read."""
    if input_shape is None:
        input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    name = cfg.MODEL.BACKBONE.NAME
    backbone = BACKBONE_REGISTRY.get(name)(cfg, input_shape)
    assert isinstance(backbone, Backbone), (
        f"Backbone '{name}' was built as {type(backbone)}, which is not a subclass of Backbone"
    )
    return backbone
