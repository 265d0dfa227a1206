"""The training loop of the tools, on Detectron2's public API."""

from .build import build
from .checks import check_output_dir, check_weights
from .config import apply_overrides, load_config
from .ema import build_ema
from .evaluate import evaluate
from .evaluation_hook import Evaluation
from .launch import check_devices, launch, under_torchrun
from .metrics_file import MetricsFile
from .optimizer import make_settings_plain
from .predictor import Predictor
from .progress import ProgressBar, writer_hooks
from .resume import Checkpoints, EventHistory
from .trainer import Trainer, amp_dtype
from .training import train

__all__ = [
    "Checkpoints",
    "Evaluation",
    "EventHistory",
    "MetricsFile",
    "Predictor",
    "ProgressBar",
    "Trainer",
    "amp_dtype",
    "apply_overrides",
    "build",
    "build_ema",
    "check_devices",
    "check_output_dir",
    "check_weights",
    "evaluate",
    "launch",
    "load_config",
    "make_settings_plain",
    "train",
    "under_torchrun",
    "writer_hooks",
]
