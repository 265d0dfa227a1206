"""Deterministic transforms (fvcore's and ours) and the random augmentations that choose them."""

# ruff: noqa: F403
from fvcore.transforms.transform import *

from .augmentation import *
from .augmentation_impl import *
from .transform import *

__all__ = [x for x in globals() if not x.startswith("_")]
