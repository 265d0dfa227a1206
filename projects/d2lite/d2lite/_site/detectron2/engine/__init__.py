"""Training loops, their hooks, and the start-up code of training scripts."""

from .launch import DEFAULT_TIMEOUT, launch
from .train_loop import AMPTrainer, HookBase, SimpleTrainer, TrainerBase

# A star import brings these; the names below live in their own modules, and here too.
__all__ = ["DEFAULT_TIMEOUT", "AMPTrainer", "HookBase", "SimpleTrainer", "TrainerBase", "launch"]

from .defaults import (  # noqa: F401
    DefaultPredictor,
    DefaultTrainer,
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
)
from .hooks import *  # noqa: F403
