"""Samplers that know about ranks."""

# ruff: noqa: F403
from .distributed_sampler import *
from .grouped_batch_sampler import *

__all__ = [name for name in globals() if name.endswith("Sampler")]
