"""The machine, the versions, and every setting that changes a timing."""

import os
import platform
import time
from pathlib import Path

import timm
import torch

import lvt_d2

# Of threads and allocators; those that are set are shown.
VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "MKL_NUM_THREADS",
    "OMP_PROC_BIND",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "LD_PRELOAD",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_ARENA_MAX",
    "MALLOC_CONF",
    "GLIBC_TUNABLES",
    "THP_MEM_ALLOC_ENABLE",
    "ONEDNN_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "LVT_D2_KERNELS",
)


def setting(device: torch.device) -> dict[str, str]:
    """What a table must say to be read, in words."""
    found = {
        "machine": f"{_processor()}, {os.cpu_count()} cores, "
        f"{torch.backends.cpu.get_cpu_capability()}",
        "threads": str(torch.get_num_threads()),
        "matrix products": f"{matrix_product_rate() / 1e9:.0f} GFLOP/s in float32 on all threads",
        "load before": ", ".join(f"{load:.1f}" for load in os.getloadavg()),
        "versions": f"Python {platform.python_version()}, PyTorch {torch.__version__}, "
        f"timm {timm.__version__}, engine {lvt_d2.ENGINE}",
        "allocator and thread variables": ", ".join(
            f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ
        )
        or "none set",
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["GPU"] = (
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA "
            f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, TF32 in products "
            f"{torch.backends.cuda.matmul.allow_tf32}, in convolutions "
            f"{torch.backends.cudnn.allow_tf32}"
        )
    return found


def matrix_product_rate(side: int = 768, repeats: int = 10) -> float:
    """Best rate of the processor's square matrix products, in operations a second.

    No formulation is faster than its products at this rate: where it is low, ratios are, too.
    """
    a, out = torch.ones(side, side), torch.empty(side, side)
    fastest = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, a, out=out)
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * side**3 / fastest


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
