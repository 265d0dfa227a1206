"""Data sets, what maps their entries to model inputs, and the loaders of both."""

# ruff: noqa: F401, F403
from detectron2._scope import missing_attribute

from . import transforms
from .build import *
from .catalog import *
from .common import *
from .dataset_mapper import *

# Registers the builtin data sets, so it comes after the catalogs.
from . import datasets, samplers  # isort: skip

__getattr__ = missing_attribute(__name__)
