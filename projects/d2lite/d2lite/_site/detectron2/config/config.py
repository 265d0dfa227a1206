"""yacs configs, and constructors that can be called with one."""

import functools
import inspect
import logging
from collections.abc import Callable

from fvcore.common.config import CfgNode as _CfgNode
from omegaconf import DictConfig

from detectron2.utils.file_io import PathManager

__all__ = ["CfgNode", "get_cfg", "global_cfg", "set_global_cfg", "configurable"]


class CfgNode(_CfgNode):
    """fvcore's CfgNode that opens files through PathManager and checks the version of a file."""

    @classmethod
    def _open_cfg(cls, filename):
        return PathManager.open(filename, "r")

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = True) -> None:
        """Merge a YAML file.

        Args:
            cfg_filename: the file; its ``_BASE_`` names files to start from.
            allow_unsafe: let YAML tags make Python objects: don't load files of strangers.

        Raises:
            AssertionError: no such file, or it says another VERSION than this config.
            KeyError: a key that this config doesn't have.
        """
        assert PathManager.isfile(cfg_filename), f"Config file '{cfg_filename}' does not exist!"
        loaded = type(self)(self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe))
        if "VERSION" not in loaded:
            logging.getLogger(__name__).warning(
                f"Config '{cfg_filename}' has no VERSION. Assuming it to be compatible with "
                f"latest v{self.VERSION}."
            )
        version = loaded.get("VERSION", self.VERSION)
        assert version == self.VERSION, (
            f"Cannot merge a v{version} config into a v{self.VERSION} config: '{cfg_filename}'. "
            "d2lite doesn't convert between versions; Detectron2 does."
        )
        self.merge_from_other_cfg(loaded)


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
            args, kwargs = _explicit(from_config, args, kwargs)
            return function(*args, **kwargs)

        wrapped.from_config = from_config
        return wrapped

    return decorate


def _configurable_init(init_func: Callable) -> Callable:
    @functools.wraps(init_func)
    def wrapped(self, *args, **kwargs):
        message = "Class with @configurable must have a 'from_config' classmethod."
        try:
            from_config = type(self).from_config
        except AttributeError as error:
            raise AttributeError(message) from error
        if not inspect.ismethod(from_config):
            raise TypeError(message)
        args, kwargs = _explicit(from_config, args, kwargs)
        init_func(self, *args, **kwargs)

    return wrapped


def _explicit(from_config: Callable, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The arguments; of a call with a config those that `from_config` makes of it."""
    if not any(isinstance(x, (_CfgNode, DictConfig)) for x in (*args[:1], kwargs.get("cfg"))):
        return args, kwargs
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        name = from_config.__name__
        if inspect.ismethod(from_config):
            name = f"{from_config.__self__}.from_config"
        raise TypeError(f"{name} must take 'cfg' as the first argument!")
    takes_all = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values())
    rest = {} if takes_all else {k: kwargs[k] for k in kwargs if k not in parameters}
    taken = {k: kwargs[k] for k in kwargs if k not in rest}
    return (), {**from_config(*args, **taken), **rest}
