"""What a training tells: a bar or lines while it runs, and a row of numbers for every epoch."""

import csv
import logging
import os
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from lvt_d2.errors import ConfigError

logger = logging.getLogger(__name__)

COLUMNS = (
    "epoch", "train_loss", "lr", "top1", "top5", "loss", "ema_top1", "ema_top5", "ema_loss",
    "unreadable", "seconds", "images_per_second",
)  # fmt: skip


class Records:
    """Rows of ``metrics.csv``, TensorBoard, and Weights & Biases; on the main process only.

    Args:
        folder: of the files.
        tensorboard: write its files.
        wandb: project at Weights & Biases; None logs nothing there.
        settings: of the training, for Weights & Biases.
        done: epochs that were done before; later rows of the files are dropped, since the epochs
            are about to be done again.

    Raises:
        ConfigError: Weights & Biases is not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        tensorboard: bool,
        wandb: str | None,
        settings: Mapping[str, Any],
        done: int = 0,
    ):
        self.path = Path(folder) / "metrics.csv"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._keep_rows(done)
        self._board = SummaryWriter(str(folder), purge_step=done) if tensorboard else None
        self._run = _start_wandb(wandb, folder, settings, done > 0) if wandb else None

    def write(self, row: Mapping[str, Any]) -> None:
        """Add the numbers of an epoch; what is lacking stays empty."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS).writerow(row)
        numbers = {name: value for name, value in row.items() if name != "epoch"}
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, row["epoch"])
            self._board.flush()
        if self._run is not None:
            self._run.log(numbers, step=row["epoch"])

    def close(self) -> None:
        """Finish the files."""
        if self._board is not None:
            self._board.close()
        if self._run is not None:
            self._run.finish()

    def _keep_rows(self, done: int) -> None:
        rows = read_rows(self.path) if done else []
        partial = self.path.with_suffix(".partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(row for row in rows if int(row["epoch"]) < done)
        partial.replace(self.path)


def read_rows(path: str | os.PathLike) -> list[dict[str, str]]:
    """Rows of a CSV file; none where it does not exist."""
    if not os.path.exists(path):
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _start_wandb(project: str, folder: Any, settings: Mapping[str, Any], resumed: bool) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(
            f"wandb is {project!r}, but the package is not installed; pip install wandb, or leave "
            "out --wandb"
        ) from error
    # The run keeps its name in the folder, so that a resumed training goes on in it.
    name = Path(folder) / "wandb.id"
    if not (resumed and name.exists()):
        name.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
    return wandb.init(
        project=project,
        dir=str(folder),
        config=dict(settings),
        id=name.read_text(encoding="utf-8"),
        resume="allow",
    )


class Progress:
    """Lines of the log, and on a terminal a bar below them.

    Args:
        epoch: that runs.
        epochs: of the whole training.
        updates: of an epoch.
        done: updates of the epoch that were done before.
        interval: updates between two lines of the log.
        visible: on the main process.
    """

    def __init__(
        self, epoch: int, epochs: int, updates: int, done: int, interval: int, visible: bool
    ):
        self.text = f"epoch {epoch + 1}/{epochs}"
        self.updates = updates
        self.interval = interval
        self.visible = visible
        on_terminal = visible and sys.stderr.isatty()
        self.bar = tqdm(
            total=updates,
            initial=done,
            desc=self.text,
            unit="update",
            disable=not on_terminal,
            dynamic_ncols=True,
            leave=False,
        )
        self._redirect = (
            logging_redirect_tqdm([logging.getLogger("lvt_imagenet")]) if on_terminal else None
        )

    def __enter__(self) -> "Progress":
        if self._redirect is not None:
            self._redirect.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.close()
        if self._redirect is not None:
            self._redirect.__exit__(*error)

    def is_due(self, update: int) -> bool:
        """Whether the log gets a line after so many updates of the epoch."""
        return update % self.interval == 0 or update == self.updates

    def step(self, update: int, numbers: Mapping[str, float] | None = None) -> None:
        """Move on by one update; with numbers, tell them."""
        self.bar.update(1)
        if numbers is None or not self.visible:
            return
        told = {name: f"{value:.4g}" for name, value in numbers.items()}
        self.bar.set_postfix(told, refresh=False)
        words = "  ".join(f"{name} {value}" for name, value in told.items())
        logger.info("%s  update %d/%d  %s", self.text, update, self.updates, words)
