"""Objects from the dictionaries that describe how to make them."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from detectron2.utils.registry import _convert_target_to_string, locate

__all__ = ["dump_dataclass", "instantiate"]


def dump_dataclass(obj: Any) -> dict[str, Any]:
    """Nested dict that :func:`instantiate` turns into a dataclass instance equal to `obj`."""
    assert dataclasses.is_dataclass(obj) and not isinstance(obj, type), (
        "dump_dataclass() requires an instance of a dataclass."
    )
    dumped = {"_target_": _convert_target_to_string(type(obj))}
    for field in dataclasses.fields(obj):
        value = getattr(obj, field.name)
        if dataclasses.is_dataclass(value):
            value = dump_dataclass(value)
        elif isinstance(value, (list, tuple)):
            value = [dump_dataclass(x) if dataclasses.is_dataclass(x) else x for x in value]
        dumped[field.name] = value
    return dumped


def instantiate(cfg: Any) -> Any:
    """Call what ``_target_`` (a callable or its name) says with the other keys as arguments.

    Lists and arguments are treated recursively, unless ``_recursive_`` is False; a plain dict
    without ``_target_`` and everything else comes back as it is.

    Raises:
        TypeError: the call's own, after the target has been logged.
        AssertionError: the target is not callable.
    """
    if isinstance(cfg, ListConfig):
        return ListConfig([instantiate(x) for x in cfg], flags={"allow_objects": True})
    if isinstance(cfg, list):
        return [instantiate(x) for x in cfg]
    if isinstance(cfg, DictConfig) and dataclasses.is_dataclass(cfg._metadata.object_type):
        return OmegaConf.to_object(cfg)
    if not (isinstance(cfg, Mapping) and "_target_" in cfg):
        return cfg

    recurse = instantiate if getattr(cfg, "_recursive_", True) else (lambda value: value)
    arguments = {key: recurse(value) for key, value in cfg.items() if key != "_recursive_"}
    target = name = instantiate(arguments.pop("_target_"))
    if isinstance(target, str):
        target = locate(name)
    elif hasattr(target, "__qualname__"):  # a target can be any object
        name = f"{target.__module__}.{target.__qualname__}"
    assert callable(target), f"_target_ {target} does not define a callable object"
    try:
        return target(**arguments)
    except TypeError:
        logging.getLogger(__name__).error(f"Error when instantiating {name}!")
        raise
