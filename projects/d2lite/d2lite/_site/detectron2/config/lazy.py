"""Configs that are Python files: calls written down as dictionaries, to be made later.

A relative import in a config file finds its file by path alone, executes it anew each time, and
turns the dicts it imports into DictConfig. Config files are executed: don't load a stranger's.
"""

import ast
import builtins
import importlib.machinery
import importlib.util
import inspect
import logging
import os
import uuid
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import is_dataclass
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
_NO_DIRECTORIES = (
    " Relative import of directories is not allowed within config files. Within a config file, "
    "relative import can only import other config files."
)


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
            content = _execute(filename)
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
            _visit_dict_config(cfg, _name_target)
        try:
            container = OmegaConf.to_container(
                cfg, resolve=False, structured_config_mode=SCMode.INSTANTIATE
            )
            text = yaml.dump(container, default_flow_style=None, allow_unicode=True, width=9999)
            with PathManager.open(filename, "w") as f:
                f.write(text)
        except Exception:
            logger.exception("Unable to serialize the config to yaml. Error:")
        else:
            try:
                yaml.unsafe_load(text)
                return
            except Exception:
                logger.warning(
                    "The config contains objects that cannot serialize to a valid yaml. "
                    f"{filename} is human-readable but cannot be loaded."
                )
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
    parents = key.split(".")[:-1]
    for depth in range(1, len(parents) + 1):
        name = ".".join(parents[:depth])
        parent = OmegaConf.select(cfg, name, default=None)
        if parent is None:
            break
        if not OmegaConf.is_config(parent):
            raise KeyError(
                f"Trying to update key {key}, but {name} is not a config, but has type "
                f"{type(parent)}."
            )
    OmegaConf.update(cfg, key, value, merge=True)


def _visit_dict_config(cfg: Any, func: Callable[[DictConfig], None]) -> None:
    """Apply `func` to every DictConfig in `cfg`, parents first."""
    if isinstance(cfg, DictConfig):
        func(cfg)
        for value in cfg.values():
            _visit_dict_config(value, func)
    elif isinstance(cfg, ListConfig):
        for value in cfg:
            _visit_dict_config(value, func)


def _name_target(cfg: DictConfig) -> None:
    if "_target_" in cfg and callable(cfg._target_):
        with suppress(AttributeError):  # not every callable has a name
            cfg._target_ = _convert_target_to_string(cfg._target_)


def _cast_to_config(obj: Any) -> Any:
    return DictConfig(obj, flags=_OBJECTS) if isinstance(obj, dict) else obj


def _random_package_name(filename: str) -> str:
    return f"{_CFG_PACKAGE_NAME}{str(uuid.uuid4())[:4]}.{os.path.basename(filename)}"


def _compile(filename: str):
    """Code object that knows its file, for tracebacks and for `load_rel`."""
    with PathManager.open(filename, "r") as f:
        content = f.read()
    try:
        ast.parse(content)
    except SyntaxError as error:
        raise SyntaxError(f"Config file {filename} has syntax error!") from error
    return compile(content, filename, "exec")


def _execute(filename: str) -> dict[str, Any]:
    code = _compile(filename)
    namespace = {"__file__": filename, "__package__": _random_package_name(filename)}
    with _patch_import():
        exec(code, namespace)
    return namespace


def _find_relative_file(importer: str, name: str, level: int) -> str:
    """File that ``from <level dots><name> import ...`` in the file `importer` means."""
    if not name:
        raise ImportError(_NO_DIRECTORIES.strip())
    folder = importer
    for _ in range(level):
        folder = os.path.dirname(folder)
    path = os.path.join(folder, *name.split("."))
    if PathManager.isfile(path + ".py"):
        return path + ".py"
    if PathManager.isdir(path):
        raise ImportError(f"Cannot import from {path}.{_NO_DIRECTORIES}")
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
        code = _compile(filename)
        spec = importlib.machinery.ModuleSpec(_random_package_name(filename), None, origin=filename)
        module = importlib.util.module_from_spec(spec)
        module.__file__ = filename
        exec(code, module.__dict__)
        for key in fromlist or ():
            if key not in module.__dict__:
                raise KeyError(
                    f"{globals['__file__']} imports {key!r}, {filename} has no such name"
                )
            module.__dict__[key] = _cast_to_config(module.__dict__[key])
        return module

    builtins.__import__ = import_config
    try:
        yield import_config
    finally:
        builtins.__import__ = original
