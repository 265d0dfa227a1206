"""Configs that are Python files: calls written down as dictionaries, to be made later.

A relative import in a config file finds its file by path alone, executes it anew each time, and
turns the dicts it imports into DictConfig. Config files are executed: don't load a stranger's.
"""

import builtins
import inspect
import logging
import os
import uuid
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import is_dataclass
from types import ModuleType
from typing import Any

import cloudpickle
import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf, SCMode

from detectron2.config.python_text import python_text
from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import _convert_target_to_string

__all__ = ["LazyCall", "LazyConfig"]

_CFG_PACKAGE_NAME = "detectron2._cfg_loader"  # prefix of the made-up packages of config files
_OBJECTS = {"allow_objects": True}


class LazyCall:
    """Wraps a callable, or its dotted name: calling it gives a DictConfig for `instantiate`.

    ``LazyCall(nn.Conv2d)(in_channels=3)`` is ``{"_target_": nn.Conv2d, "in_channels": 3}``. Only
    keyword arguments are taken. The target can also be a config that makes a callable.
    """

    def __init__(self, target: Any):
        if not (callable(target) or isinstance(target, (str, Mapping))):
            raise TypeError(
                f"target of LazyCall must be a callable or defines a callable! Got {target}"
            )
        self._target = target

    def __call__(self, **kwargs) -> DictConfig:
        target = self._target
        if is_dataclass(target):  # omegaconf would read its type as a schema
            target = _convert_target_to_string(target)
        kwargs["_target_"] = target
        return DictConfig(content=kwargs, flags=_OBJECTS)


class LazyConfig:
    """Loads, overrides and saves configs."""

    @staticmethod
    def load_rel(filename: str, keys: None | str | tuple[str, ...] = None):
        """Like :meth:`load`, with a path relative to the file of the caller."""
        caller = inspect.stack()[1].filename
        assert caller != "<string>", "load_rel Unable to find caller"
        return LazyConfig.load(os.path.join(os.path.dirname(caller), filename), keys)

    @staticmethod
    def load(filename: str, keys: None | str | tuple[str, ...] = None):
        """Load a Python or YAML file.

        Args:
            filename: path, relative to the working directory or absolute.
            keys: name or names of what to return.

        Returns:
            The value of one key, a tuple of values for several, and by default a DictConfig of all
            of a Python file's public configs, lists of configs and dicts, or all of a YAML file.

        Raises:
            ValueError: the file's suffix is none of .py, .yaml, .yml.
            KeyError: it has no such key.
        """
        filename = filename.replace("/./", "/")
        suffix = os.path.splitext(filename)[1]
        if suffix not in (".py", ".yaml", ".yml"):
            raise ValueError(f"Config file {filename} has to be a python or yaml file.")
        if suffix == ".py":
            content = {"__file__": filename, "__package__": _random_package_name(filename)}
            with _patch_import():
                _execute(content)
        else:
            with PathManager.open(filename) as f:
                content = OmegaConf.create(yaml.unsafe_load(f), flags=_OBJECTS)

        if isinstance(keys, str):
            return _cast_to_config(content[keys])
        if keys is not None:
            return tuple(_cast_to_config(content[key]) for key in keys)
        if suffix != ".py":
            return content
        configs = {
            name: _cast_to_config(value)
            for name, value in content.items()
            if isinstance(value, (DictConfig, ListConfig, dict)) and not name.startswith("_")
        }
        return DictConfig(configs, flags=_OBJECTS)

    @staticmethod
    def save(cfg, filename: str) -> None:
        """Save as YAML, with interpolations kept and targets as names.

        Where `cfg` holds objects that YAML can't bring back, a loadable "<filename>.pkl" is
        written too; nothing is raised.
        """
        logger = logging.getLogger(__name__)
        with suppress(Exception):  # what can't be copied is saved with its targets as they are
            cfg = deepcopy(cfg)
            _name_targets(cfg)
        try:
            container = OmegaConf.to_container(
                cfg, resolve=False, structured_config_mode=SCMode.INSTANTIATE
            )
            text = yaml.dump(container, default_flow_style=None, allow_unicode=True, width=9999)
            with PathManager.open(filename, "w") as f:
                f.write(text)
            try:
                yaml.unsafe_load(text)
                return
            except Exception:
                logger.warning(
                    "The config contains objects that cannot serialize to a valid yaml. "
                    f"{filename} is human-readable but cannot be loaded."
                )
        except Exception:
            logger.exception("Unable to serialize the config to yaml. Error:")
        with suppress(Exception):
            with PathManager.open(filename + ".pkl", "wb") as f:
                cloudpickle.dump(cfg, f)
            logger.warning(f"Config is saved using cloudpickle at {filename}.pkl.")

    @staticmethod
    def apply_overrides(cfg, overrides: list[str]):
        """Set values in place, from strings such as ``model.depth=3``, and return `cfg`.

        Their grammar is Hydra's. New keys are added; dicts are merged.

        Raises:
            hydra.errors.OverrideParseException: a string doesn't follow the grammar.
            KeyError: a parent of the key holds a value that is no config.
            NotImplementedError: an override that deletes.
        """
        from hydra.core.override_parser.overrides_parser import OverridesParser

        for override in OverridesParser.create().parse_overrides(overrides):
            if override.is_delete():
                raise NotImplementedError("deletion is not yet a supported override")
            _update(cfg, override.key_or_group, override.value())
        return cfg

    @staticmethod
    def to_py(cfg, prefix: str = "cfg.") -> str:
        """Python-like text of a config, for humans: assignments to dotted names, sorted."""
        return python_text(OmegaConf.to_container(cfg, resolve=True), prefix)


def _update(cfg, key: str, value: Any) -> None:
    parts = key.split(".")
    for end in range(1, len(parts)):
        name = ".".join(parts[:end])
        parent = OmegaConf.select(cfg, name, default=None)
        if parent is not None and not OmegaConf.is_config(parent):
            raise KeyError(
                f"Trying to update key {key}, but {name} is not a config, but has type "
                f"{type(parent)}."
            )
    OmegaConf.update(cfg, key, value, merge=True)


def _name_targets(cfg: Any) -> None:
    """Let every ``_target_`` in `cfg` be a dotted name, where it has one."""
    if not isinstance(cfg, (DictConfig, ListConfig)):
        return
    if isinstance(cfg, DictConfig) and "_target_" in cfg and callable(cfg._target_):
        with suppress(AttributeError):  # not every callable has a name
            cfg._target_ = _convert_target_to_string(cfg._target_)
    for value in cfg.values() if isinstance(cfg, DictConfig) else cfg:
        _name_targets(value)


def _cast_to_config(obj: Any) -> Any:
    return DictConfig(obj, flags=_OBJECTS) if isinstance(obj, dict) else obj


def _random_package_name(filename: str) -> str:
    return f"{_CFG_PACKAGE_NAME}{str(uuid.uuid4())[:4]}.{os.path.basename(filename)}"


def _execute(namespace: dict[str, Any]) -> None:
    """Run the config file that is the namespace's ``__file__`` in it."""
    filename = namespace["__file__"]
    with PathManager.open(filename, "r") as f:
        content = f.read()
    try:
        code = compile(content, filename, "exec")
    except SyntaxError as error:
        raise SyntaxError(f"Config file {filename} has syntax error!") from error
    exec(code, namespace)


def _find_relative_file(importer: str, name: str, level: int) -> str:
    """File that ``from <level dots><name> import ...`` in the file `importer` means."""
    folder = importer
    for _ in range(level):
        folder = os.path.dirname(folder)
    path = os.path.join(folder, *name.split("."))
    if PathManager.isfile(path + ".py"):
        return path + ".py"
    if not name or PathManager.isdir(path):
        raise ImportError(
            f"Cannot import from {path}. Relative import of directories is not allowed within "
            "config files. Within a config file, relative import can only import other config "
            "files."
        )
    raise ImportError(f"Cannot import name {name} from {importer}: {path}.py does not exist.")


@contextmanager
def _patch_import():
    """Let relative imports in config files load config files, while the context lasts."""
    original = builtins.__import__

    def import_config(name, globals=None, locals=None, fromlist=(), level=0):
        package = (globals or {}).get("__package__") or ""
        if level == 0 or not package.startswith(_CFG_PACKAGE_NAME):
            return original(name, globals, locals, fromlist=fromlist, level=level)
        filename = _find_relative_file(globals["__file__"], name, level)
        module = ModuleType(_random_package_name(filename))
        module.__file__, module.__package__ = filename, module.__name__
        _execute(vars(module))
        for key in fromlist or ():
            if not hasattr(module, key):
                raise KeyError(
                    f"{globals['__file__']} imports {key!r}, {filename} has no such name"
                )
            setattr(module, key, _cast_to_config(getattr(module, key)))
        return module

    builtins.__import__ = import_config
    try:
        yield import_config
    finally:
        builtins.__import__ = original
