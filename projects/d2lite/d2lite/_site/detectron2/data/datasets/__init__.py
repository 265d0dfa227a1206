"""Readers of the COCO formats, and the builtin data sets."""

# ruff: noqa: F401
from .coco import convert_to_coco_json, load_coco_json, load_sem_seg, register_coco_instances
from .coco_panoptic import register_coco_panoptic, register_coco_panoptic_separated

# Registers the builtin data sets.
from . import builtin  # isort: skip
