"""What an error report should say of the machine and its packages."""

import importlib
import os
import sys
from collections import defaultdict

import numpy as np
import torch
from tabulate import tabulate
from torch.utils import collect_env as torch_env

__all__ = ["collect_env_info"]


def _version_and_folder(name: str) -> str:
    try:
        module = importlib.import_module(name)
    except ImportError:
        return "Not found"
    folders = [f" @{folder}" for folder in getattr(module, "__path__", [])]
    return str(getattr(module, "__version__", "unknown version")) + "".join(folders[:1])


def _gpu_rows() -> list[tuple[str, str]]:
    if not torch.cuda.is_available():
        return [("GPU available", "No: torch.cuda.is_available() == False")]
    devices = defaultdict(list)
    for k in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(k)
        devices[f"{torch.cuda.get_device_name(k)} (arch={major}.{minor})"].append(str(k))
    rows = [("GPU " + ",".join(ids), name) for name, ids in devices.items()]
    driver = torch_env.get_nvidia_driver_version(torch_env.run) or "Not found"
    return [("GPU available", "Yes"), *rows, ("Driver version", driver)]


def collect_env_info() -> str:
    """Table of versions, folders and devices, followed by PyTorch's build settings."""
    rows = [
        ("sys.platform", sys.platform),
        ("Python", sys.version.replace("\n", "")),
        ("numpy", np.__version__),
        ("detectron2", _version_and_folder("detectron2")),
        ("detectron2._C", "none: d2lite has no compiled code"),
        ("DETECTRON2_ENV_MODULE", os.environ.get("DETECTRON2_ENV_MODULE", "<not set>")),
        ("PyTorch", _version_and_folder("torch")),
        ("PyTorch debug build", torch.version.debug),
        *_gpu_rows(),
        ("Pillow", _version_and_folder("PIL")),
    ]
    rows += [(x, _version_and_folder(x)) for x in ("torchvision", "fvcore", "iopath", "cv2")]
    return f"{tabulate(rows)}\n{torch.__config__.show()}"


if __name__ == "__main__":
    print(collect_env_info())
