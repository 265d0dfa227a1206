"""The one place that decides which code computes a layer."""

import os
from collections.abc import Callable

import torch
from torch import Tensor

from lvt_d2.layers.kernels import eager_csa, eager_mlp, eager_query

_EAGER = {
    "csa": eager_csa.csa,
    "atrous_query": eager_query.atrous_query,
    "mlp": eager_mlp.mlp,
}
KINDS = ("auto", "reference", "eager")


class use_kernels:  # noqa: N801  a function to its users, like torch.no_grad
    """Choose the code behind the layers, for good or in a ``with`` statement.

    Args:
        kind: ``"reference"``, ``"eager"``, or ``"auto"``, which is the fastest that can run.

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
    return None if _kind == "reference" else _EAGER[operation]


def _checked(kind: str, name: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"{name} is {kind!r}; expected one of {', '.join(KINDS)}")
    return kind


_kind = _checked(os.environ.get("LVT_D2_KERNELS", "auto"), "LVT_D2_KERNELS")
