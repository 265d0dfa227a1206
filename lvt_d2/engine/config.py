"""Loading of a LazyConfig with overrides, where every mistake of the user is one paragraph."""

import difflib
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from detectron2.config import LazyConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lvt_d2.engine.train_keys import add_missing_keys, check_train
from lvt_d2.errors import ConfigError, ConfigFileNotFoundError

SECTIONS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")
"""What a config of the training tool must define."""

_SUFFIXES = (".py", ".yaml", ".yml")


def load_config(path: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Load a config file and apply overrides.

    Args:
        path: a Python LazyConfig, or a YAML file that one was saved to.
        overrides: ``key=value`` in Hydra's syntax; ``+key=value`` adds a key.

    Raises:
        ConfigFileNotFoundError: the file does not exist.
        ConfigError: it is no config, lacks a section, or an override has no meaning for it.
    """
    _check_file(path)
    try:
        config = LazyConfig.load(path)
    except Exception as error:
        raise ConfigError(f"{path} can't be loaded: {_where(error, path)}") from error
    _check_sections(config, path)
    add_missing_keys(config.train)
    apply_overrides(config, overrides)
    _check_sections(config, path)  # an override can have made one null
    try:
        check_train(config.train, path)
    except OmegaConfBaseException as error:
        raise ConfigError(f"train of {path} can't be read: {_one_line(error)}") from error
    return config


def _check_sections(config: DictConfig, path: str) -> None:
    if not isinstance(config, DictConfig) or config._is_none():
        raise ConfigError(f"{path} holds no sections; expected {', '.join(SECTIONS)}")
    found = [str(name) for name in config if isinstance(config.get(name), DictConfig)]
    missing = [name for name in SECTIONS if name not in found]
    if missing:
        raise ConfigError(
            f"{path} does not define {', '.join(missing)}, only {', '.join(found) or 'nothing'}. "
            f"A config of this tool defines {', '.join(SECTIONS)}, as configs/panoptic_lvt.py does"
        )


def _check_file(path: str) -> None:
    if not path:
        raise ConfigError(
            "No config was given; pass one with --config-file, such as configs/panoptic_lvt.py"
        )
    file = Path(path)
    if file.is_dir() or (file.is_file() and file.suffix not in _SUFFIXES):
        kind = "a folder" if file.is_dir() else "no config file"
        raise ConfigError(f"{path} is {kind}; expected a file that ends in {', '.join(_SUFFIXES)}")
    if not file.is_file():
        names = sorted(p.name for p in file.parent.glob("*") if p.suffix in _SUFFIXES)
        close = difflib.get_close_matches(file.name, names, n=3, cutoff=0.4) or names[:5]
        there = f"{file.parent}/ has {', '.join(close)}" if names else f"{file.parent}/ has none"
        raise ConfigFileNotFoundError(f"The config file {path} does not exist; {there}")


def _where(error: Exception, path: str) -> str:
    """What went wrong while a config ran, and in which line of the user's files."""
    text = f"{type(error).__name__}: {_one_line(error)}"
    if isinstance(error, SyntaxError):
        return text  # names its line itself
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith(".py")]
    own = [f for f in frames if Path(f.filename).resolve().parent == Path(path).resolve().parent]
    return f"{text} (line {own[-1].lineno} of {own[-1].filename})" if own else text


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def dotted_keys(node, prefix: str = "") -> Iterator[str]:
    """All dotted keys of a config, inner ones too."""
    if isinstance(node, DictConfig):
        children = [(str(key), node._get_node(key)) for key in node]
    elif isinstance(node, ListConfig):
        children = [(str(i), node._get_node(i)) for i in range(len(node))]
    else:
        return
    for key, child in children:
        yield prefix + key
        if isinstance(child, (DictConfig, ListConfig)) and not OmegaConf.is_interpolation(child):
            if not (child._is_none() or child._is_missing()):
                yield from dotted_keys(child, f"{prefix}{key}.")


def _exists(config: DictConfig, key: str) -> bool:
    absent = object()
    parent_key, _, last = key.rpartition(".")
    try:
        if OmegaConf.select(config, key, default=absent) is not absent:
            return True
        parent = OmegaConf.select(config, parent_key) if parent_key else config
        return isinstance(parent, DictConfig) and OmegaConf.is_missing(parent, last)
    except OmegaConfBaseException:
        return False


def _closest(config: DictConfig, key: str) -> list[str]:
    """Existing keys that may have been meant: same last part first, then similar spelling."""
    known = list(dotted_keys(config))
    last = key.rpartition(".")[2]
    same = [k for k in known if k.rpartition(".")[2] == last]
    same = difflib.get_close_matches(key, same, n=2, cutoff=0.0)
    spelled = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    return list(dict.fromkeys([*spelled, *same]))[:4]


def _refuse_to_flatten(config: DictConfig, key: str, value, text: str) -> None:
    """Raise where a part with keys of its own would become a number or a word."""
    reference = isinstance(value, str) and value.startswith("${")
    if value is None or isinstance(value, dict) or reference:
        return
    part = OmegaConf.select(config, key, throw_on_missing=False)
    if isinstance(part, DictConfig):
        known = ", ".join(f"{key}.{name}" for name in list(part)[:5])
        raise ConfigError(
            f"The override {text!r} would replace a part of the config by {value!r}; override one "
            f"of its keys ({known}), or write ++{text} if it is meant"
        )


def apply_overrides(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Apply ``key=value`` overrides to a config; keys that it lacks need a ``+`` before them.

    Returns:
        The config, changed in place.

    Raises:
        ConfigError: no such key (with the closest ones), or no override at all.
    """
    late = [text for text in overrides if text.startswith("--")]
    if late:
        raise ConfigError(
            f"The option {late[0]} stands behind an override; options come first, then key=value"
        )
    parser = OverridesParser.create()
    for text in overrides:
        try:
            override = parser.parse_override(text)
            if not override.key_or_group:
                raise HydraException("it has no key")
        except HydraException as error:
            raise ConfigError(
                f"The override {text!r} can't be read ({str(error).splitlines()[0]}); expected "
                "key=value, such as train.max_iter=100, in quotes where the value has spaces, "
                "brackets or commas"
            ) from error
        key = override.key_or_group
        if override.is_delete():
            raise ConfigError(f"The override {text!r} deletes a key; set {key}=null instead")
        if not (override.is_add() or override.is_force_add() or _exists(config, key)):
            close = _closest(config, key)
            meant = f"Did you mean {', '.join(close)}? " if close else ""
            raise ConfigError(
                f"The config has no key {key!r} to override. {meant}To add it on purpose, write "
                f"+{text}"
            )
        if not (override.is_add() or override.is_force_add()):
            _refuse_to_flatten(config, key, override.value(), text)
        try:
            LazyConfig.apply_overrides(config, [text])
        except (KeyError, OmegaConfBaseException) as error:
            raise ConfigError(
                f"The override {text!r} can't be applied: {_one_line(error)}"
            ) from error
    return config
