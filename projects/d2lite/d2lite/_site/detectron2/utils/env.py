"""Seeds, and the set-up that `import detectron2` runs once."""

import importlib
import importlib.util
import logging
import os
import random
import sys
from datetime import datetime
from types import ModuleType

import numpy as np
import torch

__all__ = ["seed_all_rng"]

TORCH_VERSION = tuple(int(x) for x in torch.__version__.split(".")[:2])
"""Version of PyTorch as two numbers, such as (2, 4)."""
DOC_BUILDING = os.getenv("_DOC_BUILDING", False)
_ENV_SETUP_DONE = False


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


def _import_file(module_name: str, file_path: str, make_importable: bool = False) -> ModuleType:
    spec = importlib.util.spec_from_file_location(module_name, file_path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if make_importable:
        sys.modules[module_name] = module
    return module


def setup_environment() -> None:
    """Run the module that the environment variable DETECTRON2_ENV_MODULE names, once.

    OpenCV's OpenCL, which costs GPU memory, is turned off; DETECTRON2_DISABLE_CV2=1 makes importing
    OpenCV fail.
    """
    global _ENV_SETUP_DONE
    if _ENV_SETUP_DONE:
        return
    _ENV_SETUP_DONE = True
    if int(os.environ.get("DETECTRON2_DISABLE_CV2", False)):
        sys.modules["cv2"] = None
    else:
        os.environ["OPENCV_OPENCL_RUNTIME"] = "disabled"
    if custom_module := os.environ.get("DETECTRON2_ENV_MODULE"):
        setup_custom_environment(custom_module)


def setup_custom_environment(custom_module: str) -> None:
    """Import a module, given by name or as a ".py" file, and call its ``setup_environment()``."""
    if custom_module.endswith(".py"):
        module = _import_file("detectron2.utils.env.custom_module", custom_module)
    else:
        module = importlib.import_module(custom_module)
    assert callable(getattr(module, "setup_environment", None)), (
        f"Custom environment module defined in {custom_module} does not have the required callable "
        "attribute 'setup_environment'."
    )
    module.setup_environment()


def fixup_module_metadata(module_name: str, namespace: dict, keys=None) -> None:
    """Where documentation is built, make the public members of `namespace` name `module_name`.

    Args:
        module_name: package that exports the members.
        namespace: its ``globals()``.
        keys: names to treat; all of them by default.
    """
    if not DOC_BUILDING:
        return
    for key in list(namespace if keys is None else keys):
        home = getattr(namespace[key], "__module__", None) or ""
        if not key.startswith("_") and home.startswith((module_name, "fvcore.")):
            namespace[key].__module__ = module_name
