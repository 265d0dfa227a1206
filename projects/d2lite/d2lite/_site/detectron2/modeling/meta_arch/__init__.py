"""Whole models."""

# ruff: noqa: F401
from detectron2._scope import missing_attribute

from .build import META_ARCH_REGISTRY, build_model
from .panoptic_fpn import PanopticFPN
from .rcnn import GeneralizedRCNN, ProposalNetwork
from .semantic_seg import (
    SEM_SEG_HEADS_REGISTRY,
    SemanticSegmentor,
    SemSegFPNHead,
    build_sem_seg_head,
)

__all__ = [name for name in globals() if not name.startswith("_") and name != "missing_attribute"]
__getattr__ = missing_attribute(__name__)
