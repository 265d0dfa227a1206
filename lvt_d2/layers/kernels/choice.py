"""The one place that decides which code computes a layer."""

import logging
import math
import os
import re
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from lvt_d2.layers.kernels import eager_csa, eager_mlp, eager_query

logger = logging.getLogger(__name__)

_EAGER = {
    "csa": eager_csa.csa,
    "atrous_query": eager_query.atrous_query,
    "mlp": eager_mlp.mlp,
}
OLDEST_TRITON = (3, 2)  # in the interpreter of older ones results are wrong
KINDS = ("auto", "reference", "eager", "triton")


class use_kernels:  # noqa: N801  a function to its users, like torch.no_grad
    """Choose the code behind the layers, for good or in a ``with`` statement.

    Args:
        kind: ``"reference"``, ``"eager"``, ``"triton"``, or ``"auto"``: Triton kernels on GPUs that
            can run them, eager code elsewhere. Where ``"triton"`` can't run, eager code does, and a
            warning says why.

    Raises:
        ValueError: no such kind.
    """

    def __init__(self, kind: str):
        global _kind
        self._before = _kind
        _kind = _checked(kind, "kind")

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error) -> None:
        global _kind
        _kind = self._before


def kernels_in_use() -> str:
    """What `use_kernels` or the environment variable ``LVT_D2_KERNELS`` chose; else ``"auto"``."""
    return _kind


def fast_path(operation: str, x: Tensor) -> Callable | None:
    """The function that computes an operation in the layer's stead.

    Args:
        operation: ``"csa"``, ``"atrous_query"`` or ``"mlp"``.
        x: the layer's input.

    Returns:
        A function of the layer and its input; None if the layer itself shall compute.
    """
    # Compilers see the reference: they fuse by themselves, and need one graph for all sizes.
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) is not Tensor:
        return None
    if _kind == "reference":
        return None
    if _kind == "triton" or (_kind == "auto" and x.is_cuda):
        why_not = _why_not_triton(x)
        if why_not is None:
            return _triton(operation)
        if _kind == "triton":
            _warn_once(why_not)
    return _EAGER[operation]


def _why_not_triton(x: Tensor) -> str | None:
    """Why no Triton kernel can take a tensor; None if one may."""
    kernels = _triton_kernels()
    if isinstance(kernels, str):
        return kernels
    if not x.is_cuda and not kernels.INTERPRETED:
        return (
            f"the input is on the {x.device.type}; Triton kernels run on GPUs, and elsewhere only "
            "in Triton's interpreter, for tests: set TRITON_INTERPRET=1 before Python starts"
        )
    if x.is_cuda and kernels.INTERPRETED and _kind == "auto":
        return "TRITON_INTERPRET is set: the kernels would run on the CPU"
    dtype = x.dtype
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
    if dtype not in kernels.DTYPES:
        return f"the input is {dtype}; Triton kernels take float32, float16 and bfloat16"
    if math.prod(x.shape[1:]) > kernels.MAX_IMAGE:
        return f"images of {tuple(x.shape[1:])}; Triton kernels take {kernels.MAX_IMAGE} numbers"
    if x.is_cuda and torch.version.hip is None:
        # Below 8.0 Triton multiplies 16-bit numbers without tensor cores, and libraries with them.
        needed = 7 if dtype is torch.float32 else 8
        major, minor = _capability(x.device)
        if major < needed:
            return (
                f"the GPU has compute capability {major}.{minor}; Triton kernels in {dtype} need "
                f"{needed}.0"
            )
    return None


@cache
def _triton_kernels():
    """The kernels' common module, or why it can't be imported."""
    try:
        import triton
    except ImportError as error:
        return f"Triton can't be imported ({error}); on Linux with a GPU: pip install triton"
    version = tuple(int(number) for number in re.findall(r"\d+", triton.__version__)[:2])
    if version < OLDEST_TRITON:
        return f"Triton is {triton.__version__}; the kernels were tested with 3.2 and later"
    from lvt_d2.layers.kernels import triton_common

    return triton_common


@cache
def _triton(operation: str) -> Callable:
    """The Triton code of an operation, with the eager code for layers that it can't compute."""
    from lvt_d2.layers.kernels import triton_csa, triton_mlp, triton_query

    why_not, fast = {
        "csa": (triton_csa.why_not_csa, triton_csa.csa),
        "atrous_query": (triton_query.why_not_query, triton_query.atrous_query),
        "mlp": (triton_mlp.why_not_mlp, triton_mlp.mlp),
    }[operation]
    eager = _EAGER[operation]

    def triton(layer, x: Tensor) -> Tensor:
        reason = why_not(layer)
        if reason is not None:
            if _kind == "triton":
                _warn_once(f"{type(layer).__name__} has {reason}")
            return eager(layer, x)
        # Nothing to compute; or dtypes that don't fit, for which PyTorch has a clear error.
        mixed = not torch.is_autocast_enabled(x.device.type) and any(
            p.dtype is not x.dtype for p in layer.parameters()
        )
        return eager(layer, x) if mixed or x.numel() == 0 else fast(layer, x)

    return triton


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


@cache
def _warn_once(reason: str) -> None:
    logger.warning("Eager code in place of Triton kernels: %s", reason)


def _checked(kind: str, name: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"{name} is {kind!r}; expected one of {', '.join(KINDS)}")
    return kind


_kind = _checked(os.environ.get("LVT_D2_KERNELS", "auto"), "LVT_D2_KERNELS")
