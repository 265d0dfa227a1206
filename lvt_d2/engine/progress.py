"""How far training is: a bar on a terminal, lines of the log elsewhere, and files beside them."""

import datetime
import logging
import os
import sys
import time
from collections.abc import Sequence

import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils.events import (
    EventStorage,
    EventWriter,
    TensorboardXWriter,
    get_event_storage,
)
from tqdm import tqdm

from lvt_d2.engine.metrics_file import MetricsFile

logger = logging.getLogger(__name__)

_LOGGERS = ("detectron2", "fvcore", "lvt_d2")
_REFRESH_SECONDS = 0.2


def writer_hooks(
    output_dir: str, max_iter: int, log_period: int, resume_iter: int | None = None
) -> list[HookBase]:
    """Hooks that report training: the progress bar, ``metrics.json`` and TensorBoard.

    Args:
        output_dir: folder of the files; made if it does not exist.
        max_iter: iterations of the whole training.
        log_period: iterations between two lines of log and files.
        resume_iter: the iteration that a resumed training goes on with; what the files say of it
            and later ones is cut or hidden. None for a new training.
    """
    os.makedirs(output_dir, exist_ok=True)
    files = [
        MetricsFile(os.path.join(output_dir, "metrics.json"), resume_iter),
        TensorboardXWriter(output_dir, purge_step=resume_iter),
    ]

    def catch_up(trainer) -> None:
        """Write what was due when training was interrupted, and is in no file."""
        if trainer.start_iter > 0 and trainer.start_iter % log_period == 0:
            for writer in files:
                writer.write()

    return [
        hooks.PeriodicWriter([ProgressBar(max_iter, log_period)], period=1),
        hooks.CallbackHook(before_train=catch_up),
        hooks.PeriodicWriter(files, period=log_period),
    ]


def _has_terminal() -> bool:
    """Whether standard error is a terminal with room for a bar (some containers' have none)."""
    return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0


class ProgressBar(EventWriter):
    """Iteration, losses, learning rate, iterations/s and time left.

    To be written every iteration. On a terminal a tqdm bar moves a few times a second; the log
    file gets a line every ``log_period`` iterations, and so does a standard output that is no
    terminal.

    Args:
        max_iter: iterations of the whole training.
        log_period: iterations between two lines of the log.
        window_size: losses are medians over so many iterations.
        terminal: draw the bar; whether standard error is a terminal by default.
    """

    def __init__(
        self,
        max_iter: int,
        log_period: int = 20,
        window_size: int = 20,
        terminal: bool | None = None,
    ) -> None:
        self.max_iter = max_iter
        self.log_period = log_period
        self.window_size = window_size
        self.terminal = _has_terminal() if terminal is None else terminal
        self._bar: tqdm | None = None
        self._guard: _ConsoleGuard | None = None
        self._drawn_at = 0.0
        self._first_iter: int | None = None
        self._started_at = time.perf_counter()

    def write(self) -> None:
        """Show the state of the current event storage."""
        storage = get_event_storage()
        if self._first_iter is None:
            self._first_iter = storage.iter
        if storage.iter >= self.max_iter:
            return  # written once more after training, when nothing moves any longer
        done, last = storage.iter + 1, storage.iter + 1 == self.max_iter
        if self.terminal:
            self._draw(storage, done, last)
        if done % self.log_period == 0 or last:
            # The bar says it on the terminal already.
            logger.info(self._line(storage, done), extra={"behind_bar": self.terminal})

    def close(self) -> None:
        """Leave the bar as it stands and give the console back."""
        if self._bar is not None:
            self._bar.close()
            self._guard.detach()
            self._bar = None

    def _draw(self, storage: EventStorage, done: int, last: bool) -> None:
        if self._bar is None:
            self._bar = tqdm(
                total=self.max_iter,
                initial=storage.iter,
                desc="train",
                unit="it",
                dynamic_ncols=True,
                mininterval=0,  # drawn whenever it is updated
                miniters=1,
                file=sys.stderr,
            )
            self._guard = _ConsoleGuard(self._bar)
        now = time.perf_counter()
        if now - self._drawn_at < _REFRESH_SECONDS and not last:
            return
        self._drawn_at = now
        short = {name.removeprefix("loss_"): text for name, text in self._numbers(storage).items()}
        self._bar.set_postfix(short, refresh=False)
        self._bar.update(done - self._bar.n)

    def _numbers(self, storage: EventStorage) -> dict[str, str]:
        """Total loss, single losses and rate, as text by name."""
        known = storage.histories()
        losses = [name for name in known if "loss" in name and name != "total_loss"]
        shown = {
            name: f"{known[name].median(storage.count_samples(name, self.window_size)):.4g}"
            for name in (["total_loss"] if "total_loss" in known else []) + losses
        }
        if "lr" in known:
            shown["lr"] = f"{known['lr'].latest():.3g}"
        return shown

    def _line(self, storage: EventStorage, done: int) -> str:
        numbers = "  ".join(f"{name} {text}" for name, text in self._numbers(storage).items())
        seconds = self._seconds_per_iteration(storage, done)
        left = datetime.timedelta(seconds=int(seconds * (self.max_iter - done)))
        rate = f"{1 / seconds:.3g} it/s" if seconds >= 0.1 or seconds == 0 else ""
        rate = rate or f"{1 / seconds:.0f} it/s"
        memory = ""
        if torch.cuda.is_available():
            memory = f"  max_mem {torch.cuda.max_memory_allocated() / 2**20:.0f}M"
        share = 100 * done // self.max_iter
        return f"iter {done}/{self.max_iter} ({share}%)  {numbers}  {rate}  left {left}{memory}"

    def _seconds_per_iteration(self, storage: EventStorage, done: int) -> float:
        known = storage.histories()
        if "time" in known:  # from an IterationTimer: steps alone, without evaluation
            return max(known["time"].median(1000), 1e-9)
        elapsed = time.perf_counter() - self._started_at
        return max(elapsed / (done - self._first_iter), 1e-9)


class _ConsoleGuard:
    """Clears the bar before a record goes to the console, which would be drawn into it else."""

    def __init__(self, bar: tqdm) -> None:
        self.bar = bar
        consoles = (sys.stdout, sys.stderr)
        self.handlers: Sequence[logging.Handler] = [
            handler
            for name in _LOGGERS
            for handler in logging.getLogger(name).handlers
            if getattr(handler, "stream", None) in consoles
        ]
        for handler in self.handlers:
            handler.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record may go to the console."""
        if getattr(record, "behind_bar", False):
            return False
        self.bar.clear()
        return True

    def detach(self) -> None:
        """Undo what the constructor did."""
        for handler in self.handlers:
            handler.removeFilter(self)
