"""Probes of the machine: cores, memory, GPUs, and PyTorch's and torchvision's compiled parts."""

import os
import platform
import re
import shutil
import subprocess
import warnings

from lvt_d2.doctor.advice import explain, matching_torchvision, one_line, torchvision_command
from lvt_d2.doctor.rows import NOTE, PROBLEM, Row, check, importable, installed_version

HIDES_GPUS = "CUDA_VISIBLE_DEVICES"


def devices() -> list[Row]:
    """Cores and memory that this process may use, and NVIDIA's driver."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = _memory()
    rows = [
        Row("Devices", "cores", f"{cores} of {os.cpu_count()}, {platform.machine()}"),
        Row("Devices", "memory", f"{memory / 2**30:.1f} GiB" if memory else "unknown"),
    ]
    names = _driver_gpus()
    rows.append(Row("Devices", "driver", "; ".join(names) or "no NVIDIA driver answers"))
    if HIDES_GPUS in os.environ:
        rows.append(Row("Devices", HIDES_GPUS, repr(os.environ[HIDES_GPUS])))
    return rows


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _driver_gpus() -> list[str]:
    """GPUs that the driver names, with its version; none where it does not answer."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] * (
        done.returncode == 0
    )


def torch_and_numpy() -> list[Row]:
    """Whether PyTorch computes and shares arrays with numpy."""
    try:
        import numpy as np
    except Exception as error:
        text, remedy = explain(error, "numpy")
        return [check("numpy", text, PROBLEM, remedy)]
    try:
        import torch

        product = torch.from_numpy(np.eye(3, dtype=np.float32)) @ torch.ones(3, 2)
        if product.numpy().sum() != 6:
            raise ValueError("a product of matrices is wrong")
    except Exception as error:
        text, remedy = explain(error, "torch")
        return [check("torch", text, PROBLEM, remedy)]
    return [check("torch", f"{torch.__version__} computes, and shares arrays with numpy")]


def gpus() -> list[Row]:
    """Whether PyTorch can use the GPUs that are here."""
    if not importable("torch"):
        return []
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
    if getattr(torch.version, "hip", None):
        build = f"ROCm {torch.version.hip}"
    rows = [Row("Devices", "PyTorch's build", f"for {build}")]
    if usable:
        return rows + [_gpu(i) for i in range(torch.cuda.device_count())]
    present = _driver_gpus()
    hidden = os.environ.get(HIDES_GPUS)
    if not present:
        return [*rows, check("gpu", "no GPU was found: train with --num-gpus 0", NOTE)]
    if hidden is not None and hidden.strip() in ("", "-1"):
        text = f"{HIDES_GPUS} is {hidden!r} and hides {len(present)}: train with --num-gpus 0"
        return [*rows, check("gpu", text, NOTE)]
    words = " ".join(" ".join(str(w.message) for w in caught).split())
    return [*rows, check("gpu", *_why_unusable(torch.version.cuda, present, words))]


def _why_unusable(cuda: str | None, present: list[str], words: str) -> tuple[str, str, str]:
    """Text, level and remedy for GPUs that the driver has and PyTorch can't use."""
    hide = f"to train on the CPU all the same: export {HIDES_GPUS}="
    if cuda is None:
        text = f"this PyTorch is built for the CPU alone, but there is a GPU ({present[0]})"
        command = "pip install --force-reinstall torch torchvision (a build with CUDA)"
        return text, PROBLEM, f"{command}; {hide}"
    driver = present[0].rpartition(",")[2].strip()
    text = (
        f"this PyTorch is built for CUDA {cuda}, which the driver {driver} does not serve"
        f"{f' ({words[:300]})' if words else ''}"
    )
    tag = "cu" + "".join(re.findall(r"\d+", cuda)[:2])
    command = (
        f"update NVIDIA's driver to one for CUDA {cuda}, or install PyTorch and torchvision built "
        f"for an older CUDA than {tag} from PyTorch's own package index"
    )
    return text, PROBLEM, f"{command}; {hide}"


def _gpu(index: int) -> Row:
    import torch

    subject = f"gpu {index}"
    properties = torch.cuda.get_device_properties(index)
    capability = f"{properties.major}.{properties.minor}"
    text = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, capability {capability}"
    try:
        if float(torch.ones(8, device=f"cuda:{index}").sum()) != 8:
            raise RuntimeError("a sum is wrong")
    except Exception as error:
        built = ", ".join(torch.cuda.get_arch_list())
        return check(
            subject,
            f"{text}: this PyTorch, built for {built}, can't compute on it ({one_line(error)})",
            PROBLEM,
            "install a PyTorch whose build names this capability; to train on the CPU all the "
            f"same: export {HIDES_GPUS}=",
        )
    return check(subject, f"{text}, computes")


def torchvision() -> list[Row]:
    """Whether ``nms`` and ``roi_align`` load and give the right numbers, on CPU and GPU."""
    if not importable("torch"):
        return []
    torch_version, own_version = (installed_version(n) or "" for n in ("torch", "torchvision"))
    try:
        import torch
        import torchvision
        from torchvision.ops import nms, roi_align

        torch_version, own_version = torch.__version__, torchvision.__version__
        names = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
        for device in names:
            boxes = torch.tensor([[0.0, 0, 8, 8], [1, 0, 8, 8], [0, 9, 8, 16]], device=device)
            kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7], device=device), 0.5)
            ramp = torch.arange(16.0, device=device).repeat(16, 1)[None, None].requires_grad_()
            # Sampled at the middle of the box: a ramp's mean is its middle's value.
            pooled = roi_align(ramp, [boxes[2:]], 1, sampling_ratio=2, aligned=True)
            pooled.sum().backward()
            if kept.tolist() != [0, 2] or abs(float(pooled) - 3.5) > 1e-4:
                raise ValueError(f"nms keeps {kept.tolist()}, roi_align is {float(pooled):.3f}")
    except Exception as error:
        return [_broken_torchvision(error, torch_version, own_version)]
    text = f"{own_version}: nms and roi_align work on {' and '.join(names)}"
    return [check("torchvision", text)]


def _broken_torchvision(error: Exception, torch_version: str, own_version: str) -> Row:
    wanted = matching_torchvision(torch_version)
    builds = [v.partition("+")[2] for v in (torch_version, own_version)]
    if wanted and own_version and not own_version.startswith(f"{wanted}."):
        text = (
            f"torchvision {own_version} does not belong to torch {torch_version}, which needs "
            f"{wanted} ({one_line(error)})"
        )
        return check("torchvision", text, PROBLEM, torchvision_command())
    if isinstance(error, ModuleNotFoundError):
        text, remedy = explain(error, "torchvision")
        return check("torchvision", text, PROBLEM, remedy)
    if builds[0] != builds[1]:
        text = (
            f"torch {torch_version} and torchvision {own_version} are different builds "
            f"({one_line(error)})"
        )
        remedy = "pip install --force-reinstall torch torchvision (both from one package index)"
        return check("torchvision", text, PROBLEM, remedy)
    text, remedy = explain(error, "torchvision")
    if "nms" in text or "C++ ops" in text:
        text, remedy = f"its compiled part does not load ({text})", torchvision_command()
    return check("torchvision", text, PROBLEM, remedy)
