"""Objects from the sections of a config, where wrong arguments are one paragraph."""

import re
import traceback

from detectron2.config import instantiate
from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException

from lvt_d2.engine.config import dotted_keys
from lvt_d2.errors import ConfigError, DatasetFileNotFoundError, LVTError

# What constructors raise where their arguments are wrong.
_REFUSALS = (
    TypeError,
    ValueError,
    AssertionError,
    AttributeError,
    LookupError,
    ImportError,
    OmegaConfBaseException,
)


def build(section: DictConfig | ListConfig, key: str):
    """``instantiate(section)``.

    Args:
        section: describes an object by its ``_target_``.
        key: of the section in the config, for the error's text.

    Raises:
        ConfigError: the section can't be built; says which argument is to blame where that shows.
        DatasetFileNotFoundError: a file that it reads does not exist.
    """
    try:
        return instantiate(section)
    except LVTError:
        raise
    except FileNotFoundError as error:
        raise DatasetFileNotFoundError(
            f"{key}{_target(section)} needs {error.filename}, which does not exist. Registered "
            "sets are looked for in the folder that DETECTRON2_DATASETS names (by default "
            "./datasets), laid out as datasets/README.md shows"
        ) from error
    except _REFUSALS as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"{key}{_target(section)} can't be built from the config: {text}"
            f"{_place(error)}{_blame(section, key, text)}"
        ) from error


def _target(section) -> str:
    target = section.get("_target_") if isinstance(section, DictConfig) else None
    name = target if isinstance(target, str) else getattr(target, "__qualname__", "")
    return f" ({name})" if name else ""


def _place(error: Exception) -> str:
    """Where it was raised, unless no constructor had been entered."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return "" if frame.name == "instantiate" else f" (line {frame.lineno} of {frame.filename})"


def _blame(section, key: str, text: str) -> str:
    """Keys of the section that give the argument which the text calls unknown."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", text)
    if not unknown:
        return ""
    given = [f"{key}.{k}" for k in dotted_keys(section) if k.rpartition(".")[2] == unknown[1]]
    return f". It is given by {' or '.join(given)}: leave it out or correct it" if given else ""
