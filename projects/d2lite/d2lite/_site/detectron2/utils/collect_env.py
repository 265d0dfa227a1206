"""What an error report should say of the machine and its packages."""

import importlib
import os
import subprocess
import sys
from collections import defaultdict

import numpy as np
import torch
from tabulate import tabulate

__all__ = ["collect_env_info"]


def _version_and_folder(name: str) -> str:
    try:
        module = importlib.import_module(name)
    except ImportError:
        return "Not found"
    folders = [f" @{folder}" for folder in getattr(module, "__path__", [])]
    return str(getattr(module, "__version__", "unknown version")) + "".join(folders[:1])


def _driver_version() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "Not found"


def _gpu_rows() -> list[tuple[str, str]]:
    if not torch.cuda.is_available():
        return [("GPU available", "No: torch.cuda.is_available() == False")]
    from torch.utils.cpp_extension import CUDA_HOME as home  # it complains where no GPU is

    devices = defaultdict(list)
    for k in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(k)
        devices[f"{torch.cuda.get_device_name(k)} (arch={major}.{minor})"].append(str(k))
    suffix = "" if home is None or os.path.isdir(home) else " - invalid!"
    rows = [("GPU available", "Yes")]
    rows += [("GPU " + ",".join(ids), name) for name, ids in devices.items()]
    rows += [("Driver version", _driver_version()), ("CUDA_HOME", f"{home}{suffix}")]
    if arch_list := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        rows.append(("TORCH_CUDA_ARCH_LIST", arch_list))
    return rows


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
    ]
    rows += [("Pillow", _version_and_folder("PIL"))]
    rows += [(x, _version_and_folder(x)) for x in ("torchvision", "fvcore", "iopath", "cv2")]
    return f"{tabulate(rows)}\n{torch.__config__.show()}"


if __name__ == "__main__":
    print(collect_env_info())
