"""Training loops, their hooks, and the start-up code of training scripts."""

# ruff: noqa: F401, F403
from .launch import *
from .train_loop import *

# A star import brings these; the names below live in their own modules, and here too.
__all__ = [name for name in globals() if not name.startswith("_")]

from detectron2._scope import missing_attribute

from .defaults import *
from .hooks import *

__getattr__ = missing_attribute(__name__)
