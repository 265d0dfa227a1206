"""Seeds, and the set-up that `import detectron2` runs once."""

import functools
import importlib
import logging
import os
import random
import runpy
from datetime import datetime

import numpy as np
import torch

__all__ = ["seed_all_rng"]

TORCH_VERSION = tuple(int(x) for x in torch.__version__.split(".")[:2])
"""Version of PyTorch as two numbers, such as (2, 4)."""


def seed_all_rng(seed: int | None = None) -> None:
    """Seed numpy, torch and Python; a strong random seed is made, and logged, where it is None."""
    if seed is None:
        noise = int.from_bytes(os.urandom(2), "big")
        seed = os.getpid() + int(datetime.now().strftime("%S%f")) + noise
        logging.getLogger(__name__).info(f"Using a generated random seed {seed}")
    np.random.seed(seed)
    torch.manual_seed(seed)
    random.seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)


@functools.cache  # once in a process
def setup_environment() -> None:
    """Run the module that the environment variable DETECTRON2_ENV_MODULE names, once."""
    if custom_module := os.environ.get("DETECTRON2_ENV_MODULE"):
        setup_custom_environment(custom_module)


def setup_custom_environment(custom_module: str) -> None:
    """Import a module, given by name or as a ".py" file, and call its ``setup_environment()``."""
    if custom_module.endswith(".py"):
        names = runpy.run_path(custom_module, run_name="detectron2.utils.env.custom_module")
    else:
        names = vars(importlib.import_module(custom_module))
    assert callable(names.get("setup_environment")), (
        f"Custom environment module defined in {custom_module} does not have the required callable "
        "attribute 'setup_environment'."
    )
    names["setup_environment"]()
