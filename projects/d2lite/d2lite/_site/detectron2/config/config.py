"""yacs configs, and constructors that can be called with one."""

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any

from fvcore.common.config import CfgNode as _CfgNode
from omegaconf import DictConfig

from detectron2.utils.file_io import PathManager

__all__ = ["CfgNode", "get_cfg", "global_cfg", "set_global_cfg", "configurable"]


class CfgNode(_CfgNode):
    """fvcore's CfgNode that knows versions: files of an older one are upgraded when merged."""

    @classmethod
    def _open_cfg(cls, filename):
        return PathManager.open(filename, "r")

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = True) -> None:
        """Merge a YAML file, of this or an older version, into this latest-version config.

        Args:
            cfg_filename: the file; its ``_BASE_`` names files to start from.
            allow_unsafe: let YAML tags make Python objects: don't load files of strangers.
        """
        from detectron2.config import compat
        from detectron2.config.defaults import _C

        assert PathManager.isfile(cfg_filename), f"Config file '{cfg_filename}' does not exist!"
        loaded = type(self)(self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe))
        assert _C.VERSION == self.VERSION, (
            "CfgNode.merge_from_file is only allowed on a config object of latest version!"
        )
        version = loaded.get("VERSION", None)
        if version is None:
            version = compat.guess_version(loaded, cfg_filename)
        assert version <= self.VERSION, (
            f"Cannot merge a v{version} config into a v{self.VERSION} config."
        )
        if version == self.VERSION:
            self.merge_from_other_cfg(loaded)
            return
        logging.getLogger(__name__).warning(
            f"Loading an old v{version} config file '{cfg_filename}' by automatically upgrading "
            f"to v{self.VERSION}."
        )
        old = compat.downgrade_config(self, to_version=version)
        old.merge_from_other_cfg(loaded)
        upgraded = compat.upgrade_config(old)
        self.clear()
        self.update(upgraded)

    def dump(self, *args, **kwargs) -> str:
        """YAML text of this config."""
        return super().dump(*args, **kwargs)


global_cfg = CfgNode()


def get_cfg() -> CfgNode:
    """A copy of the default config."""
    from detectron2.config.defaults import _C

    return _C.clone()


def set_global_cfg(cfg: CfgNode) -> None:
    """Let ``detectron2.config.global_cfg`` hold what `cfg` holds."""
    global_cfg.clear()
    global_cfg.update(cfg)


def configurable(init_func: Callable | None = None, *, from_config: Callable | None = None):
    """Let an ``__init__`` or a function also be called with a config as first argument or `cfg`.

    As ``@configurable`` on ``__init__``, the class has a classmethod ``from_config(cls, cfg, ...)``
    that returns the explicit arguments as a dict; as ``@configurable(from_config=f)`` on a
    function, ``f(cfg, ...)`` does. Arguments given beside the config go to ``from_config`` if it
    takes them, and else override its result.
    """
    if init_func is not None:
        assert (
            inspect.isfunction(init_func)
            and from_config is None
            and init_func.__name__ == "__init__"
        ), "Incorrect use of @configurable. Check API documentation for examples."
        return _configurable_init(init_func)
    if from_config is None:
        return configurable
    assert inspect.isfunction(from_config), (
        "from_config argument of configurable must be a function!"
    )

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            if _called_with_cfg(args, kwargs):
                return function(**_explicit_args(from_config, args, kwargs))
            return function(*args, **kwargs)

        wrapped.from_config = from_config
        return wrapped

    return decorate


def _configurable_init(init_func: Callable) -> Callable:
    message = "Class with @configurable must have a 'from_config' classmethod."

    @functools.wraps(init_func)
    def wrapped(self, *args, **kwargs):
        try:
            from_config = type(self).from_config
        except AttributeError as error:
            raise AttributeError(message) from error
        if not inspect.ismethod(from_config):
            raise TypeError(message)
        if _called_with_cfg(args, kwargs):
            init_func(self, **_explicit_args(from_config, args, kwargs))
        else:
            init_func(self, *args, **kwargs)

    return wrapped


def _called_with_cfg(args: tuple, kwargs: dict) -> bool:
    candidates = (*args[:1], kwargs.get("cfg"))
    return any(isinstance(candidate, (_CfgNode, DictConfig)) for candidate in candidates)


def _explicit_args(from_config: Callable, args: tuple, kwargs: dict) -> dict[str, Any]:
    """Arguments that `from_config` makes of a config, updated with those it doesn't take."""
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        name = from_config.__name__
        if inspect.ismethod(from_config):
            name = f"{from_config.__self__}.from_config"
        raise TypeError(f"{name} must take 'cfg' as the first argument!")
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    takes_all = any(p.kind in variadic for p in parameters.values())
    taken = {k: v for k, v in kwargs.items() if takes_all or k in parameters}
    explicit = from_config(*args, **taken)
    explicit.update({k: v for k, v in kwargs.items() if k not in taken})
    return explicit
