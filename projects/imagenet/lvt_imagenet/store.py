"""Checkpoints of a training: written whole, the last, the best, and some more kept."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from lvt_d2.checkpoint import read_checkpoint
from lvt_d2.checkpoint.saving import replacing
from lvt_d2.errors import CheckpointError

logger = logging.getLogger(__name__)

LAST, BEST = "last.pth", "best.pth"


class Store:
    """The checkpoints of an output folder.

    ``last.pth`` has the whole state of a training. ``best.pth`` has the weights of the best
    evaluation, plain or averaged, under ``model``. ``epoch-NNNN.pth`` are the states of the best
    epochs. At every moment each is whole or not there.

    Args:
        folder: made if it does not exist.
        keep: how many ``epoch-NNNN.pth``.

    Attributes:
        best: the best metric, and None before there is one.
        best_epoch: the epoch that it belongs to.
    """

    def __init__(self, folder: str | os.PathLike, keep: int):
        self.folder = Path(folder)
        self.keep = keep
        self.best: float | None = None
        self.best_epoch: int | None = None
        self._kept: list[tuple[float, int]] = []

    @property
    def last(self) -> Path:
        """Where the last state is."""
        return self.folder / LAST

    def save(self, state: dict[str, Any]) -> None:
        """Write the state of a training as the last one.

        Raises:
            CheckpointError: it can't be written; earlier files are as they were.
        """
        self._write({**state, "store": self._state()}, self.last)

    def save_epoch(
        self, state: dict[str, Any], epoch: int, metric: float | None, weights: dict[str, Any]
    ) -> None:
        """Write the state after an epoch, and the weights if they are the best ones.

        Args:
            state: of the training.
            epoch: that was done, from 0.
            metric: the higher, the better; None without an evaluation.
            weights: content of the ``best.pth`` that they would make.

        Raises:
            CheckpointError: they can't be written; earlier files are as they were.
        """
        dropped: list[tuple[float, int]] = []
        keeps = False
        if metric is not None:
            if self.best is None or metric > self.best:
                self.best, self.best_epoch = metric, epoch
                self._write(weights, self.folder / BEST)
            ranked = sorted([*self._kept, (metric, epoch)], key=lambda kept: (-kept[0], kept[1]))
            self._kept, dropped = ranked[: self.keep], ranked[self.keep :]
            keeps = (metric, epoch) in self._kept
        self.save(state)
        if keeps:
            self._copy_last(self._path(epoch))
        for _, old in dropped:
            self._path(old).unlink(missing_ok=True)

    def load(self) -> dict[str, Any]:
        """The last state; which files are the best ones is remembered from it.

        Raises:
            CheckpointError: it can't be read, or is no state of a training.
        """
        state = read_checkpoint(self.last)
        if not isinstance(state, dict) or "progress" not in state or "store" not in state:
            raise CheckpointError(
                f"{self.last} is no checkpoint that train.py can resume from. Start from its "
                "weights with --init-checkpoint, and another --output"
            )
        store = state["store"]
        self.best, self.best_epoch = store["best"], store["best_epoch"]
        self._kept = [(metric, epoch) for metric, epoch in store["kept"]]
        for path in self.folder.glob("epoch-*.pth"):  # made after this state
            if path not in {self._path(epoch) for _, epoch in self._kept}:
                path.unlink(missing_ok=True)
        return state

    def _state(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "kept": [list(kept) for kept in self._kept],
        }

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:04d}.pth"

    def _write(self, content: dict[str, Any], path: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with replacing(str(path)) as file:
                torch.save(content, file)
        except CheckpointError as error:
            raise CheckpointError(
                f"{path} could not be written: {error.__cause__}. Checkpoints saved before are "
                "intact: make room or the folder writable, and go on with --resume; --keep N keeps "
                "fewer of them"
            ) from error

    def _copy_last(self, path: Path) -> None:
        """A second name for the last state, or a copy where the file system has no links."""
        partial = path.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        try:
            os.link(self.last, partial)
        except OSError:
            shutil.copyfile(self.last, partial)
        os.replace(partial, path)
