"""The keys of a config's ``train``: which there must be, and which values they can have."""

from omegaconf import DictConfig, ListConfig, OmegaConf

from lvt_d2.engine.launch import is_gpu
from lvt_d2.errors import ConfigError

REQUIRED = (
    "output_dir",
    "init_checkpoint",
    "max_iter",
    "device",
    "amp",
    "ddp",
    "checkpointer",
    "eval_period",
    "log_period",
)
"""The keys of Detectron2's own ``common/train.py``."""

ADDED = {
    "seed": -1,
    "accumulate": 1,
    "ema": {"enabled": False, "decay": 0.9999, "evaluate": True},
    "best_checkpointer": {"val_metric": "", "mode": "max"},
    "hooks": [],
}
"""Ours, with the values of a config that lacks them; configs/common/train.py says what they do."""

_COUNTS = {
    "max_iter": (1, "iterations"),
    "log_period": (1, "iterations"),
    "eval_period": (0, "iterations"),
    "checkpointer.period": (1, "iterations"),
    "accumulate": (1, "batches per iteration"),
}
"""Whole numbers, the least that they can be, and of what."""

_KINDS = (
    ("output_dir", str, "a path"),
    ("init_checkpoint", (str, type(None)), "a path"),
    ("ddp", DictConfig, "arguments of DistributedDataParallel, as in configs/common/train.py"),
    ("amp.enabled", bool, "True or False"),
    ("ema.enabled", bool, "True or False"),
    ("ema.evaluate", bool, "True or False"),
    ("best_checkpointer.val_metric", str, "a name as in metrics.json, or '' for no best one"),
    ("hooks", ListConfig, "a list of hooks, [] for none"),
)
"""Others whose wrong values would show late or never."""


def add_missing_keys(train: DictConfig) -> None:
    """Give a ``train`` of Detectron2's keys alone the defaults of ours."""
    for key, default in ADDED.items():
        if key not in train:
            train[key] = default
        elif isinstance(default, dict) and isinstance(train[key], DictConfig):
            for inner, value in default.items():
                if inner not in train[key]:
                    train[key][inner] = value


def check_train(train: DictConfig, path: str) -> None:
    """Find values that can't be meant.

    Args:
        train: of the config, overrides applied.
        path: of the config, for messages.

    Raises:
        ConfigError: a key is missing or has an impossible value.
    """
    missing = [key for key in REQUIRED if key not in train]
    if missing:
        raise ConfigError(
            f"train of {path} lacks {', '.join(missing)}; start from configs/common/train.py"
        )
    for key, (least, unit) in _COUNTS.items():
        value = OmegaConf.select(train, key)
        if type(value) is not int or value < least:
            raise ConfigError(
                f"train.{key} is {value!r}; expected a whole number of {unit}, {least} or more"
            )
    for key, kinds, expected in _KINDS:
        value = OmegaConf.select(train, key)
        if not isinstance(value, kinds):
            raise ConfigError(f"train.{key} is {value!r}; expected {expected}")
    kept = OmegaConf.select(train, "checkpointer.max_to_keep", default=None)
    if kept is not None and (type(kept) is not int or kept < 1):
        raise ConfigError(
            f"train.checkpointer.max_to_keep is {kept!r}; expected a number of checkpoints, 1 or "
            "more, or null to keep them all"
        )
    if type(train.seed) is not int:
        raise ConfigError(
            f"train.seed is {train.seed!r}; expected a whole number, below 0 for another one every "
            "time"
        )
    decay, mode = train.ema.decay, train.best_checkpointer.mode
    if type(decay) not in (int, float) or not 0 <= decay <= 1:
        raise ConfigError(
            f"train.ema.decay is {decay!r}; expected a number from 0 to 1, such as 0.9999"
        )
    if mode not in ("max", "min"):
        raise ConfigError(f"train.best_checkpointer.mode is {mode!r}; expected max or min")
    is_gpu(train.device)
