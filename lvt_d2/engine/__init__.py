"""The training loop of the tools, on Detectron2's public API."""

from .build import build
from .checks import check_output_dir, check_weights
from .config import apply_overrides, load_config
from .evaluate import evaluate
from .launch import check_devices, launch, under_torchrun
from .optimizer import make_settings_plain
from .progress import ProgressBar, writer_hooks
from .trainer import Trainer, amp_dtype

__all__ = [
    "ProgressBar",
    "Trainer",
    "amp_dtype",
    "apply_overrides",
    "build",
    "check_devices",
    "check_output_dir",
    "check_weights",
    "evaluate",
    "launch",
    "load_config",
    "make_settings_plain",
    "under_torchrun",
    "writer_hooks",
]
