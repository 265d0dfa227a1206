"""Checkpoints: written whole, read safely and strictly, and the official ones too."""

from lvt_d2.checkpoint.checkpointer import LVTCheckpointer
from lvt_d2.checkpoint.official import Converted, convert_official, is_official
from lvt_d2.checkpoint.safe_load import read_checkpoint, read_pickle
from lvt_d2.checkpoint.saving import AtomicCheckpointer, WeightsCheckpointer

__all__ = [
    "AtomicCheckpointer",
    "Converted",
    "LVTCheckpointer",
    "WeightsCheckpointer",
    "convert_official",
    "is_official",
    "read_checkpoint",
    "read_pickle",
]
