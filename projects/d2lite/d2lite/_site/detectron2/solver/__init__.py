"""Optimizers and learning-rate schedules."""

# ruff: noqa: F401
from .build import build_lr_scheduler, build_optimizer, get_default_optimizer_params
from .lr_scheduler import (
    LRMultiplier,
    LRScheduler,
    WarmupCosineLR,
    WarmupMultiStepLR,
    WarmupParamScheduler,
)

__all__ = [name for name in globals() if not name.startswith("_")]
