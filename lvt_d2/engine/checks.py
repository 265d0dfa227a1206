"""What can be known to fail before any process is started."""

import os
import tempfile
from pathlib import Path

from omegaconf import DictConfig

from lvt_d2.errors import ConfigError


def check_output_dir(path: str) -> None:
    """Find out whether ``train.output_dir`` can be made and written; nothing is made yet.

    Raises:
        ConfigError: they can't.
    """
    if not path:
        raise ConfigError("train.output_dir is empty; give a folder, train.output_dir=FOLDER")
    folder = Path(path).absolute()
    while not os.path.lexists(folder):
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"train.output_dir is {path!r}, where nothing can be written ({error.strerror} at "
            f"{folder}); give a folder of yours, train.output_dir=FOLDER"
        ) from error


def check_weights(train: DictConfig, resume: bool) -> None:
    """Find out whether there is anything to evaluate: random weights are not.

    Args:
        train: of the config.
        resume: whether the last checkpoint of ``train.output_dir`` is asked for.

    Raises:
        ConfigError: neither that exists nor ``train.init_checkpoint`` is given.
    """
    if train.init_checkpoint:
        return
    if not resume:
        raise ConfigError(
            "--eval-only has no weights to evaluate: train.init_checkpoint is empty. Give "
            "train.init_checkpoint=FILE, or --resume for the last checkpoint of train.output_dir"
        )
    folder = Path(train.output_dir)
    if not (folder / "last_checkpoint").is_file() and not any(folder.glob("*.pth")):
        raise ConfigError(
            f"--eval-only --resume has no weights to evaluate: {train.output_dir} has no "
            "checkpoint. Give the train.output_dir of a training, or train.init_checkpoint=FILE "
            "in place of --resume"
        )
