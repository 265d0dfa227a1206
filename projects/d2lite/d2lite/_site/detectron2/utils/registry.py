"""Registries by name, and objects by their dotted name."""

import pydoc
from typing import Any

from fvcore.common.registry import Registry

__all__ = ["Registry", "locate"]


def _convert_target_to_string(t: Any) -> str:
    """Dotted name of `t`: the shortest of its module's prefixes under which it can be found."""
    packages = t.__module__.split(".")
    for depth in range(1, len(packages)):
        candidate = ".".join([*packages[:depth], t.__qualname__])
        try:
            if locate(candidate) is t:
                return candidate
        except ImportError:
            continue
    return f"{t.__module__}.{t.__qualname__}"


def locate(name: str) -> Any:
    """Object of a dotted name such as ``module.submodule.class_name``.

    Raises:
        ImportError: there is no such object, or it is one that d2lite leaves out.
    """
    obj = pydoc.locate(name)
    if obj is None:
        # pydoc misses submodules that their package has deleted from its names (torch.optim.sgd).
        from hydra.utils import _locate

        obj = _locate(name)
    return obj
