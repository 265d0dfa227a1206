"""Storage of the numbers and images that training produces, and the writers that report them."""

import contextlib
import datetime
import itertools
import json
import logging
import os
import time
from collections import defaultdict
from functools import cached_property

import numpy as np
import torch
from fvcore.common.history_buffer import HistoryBuffer

from detectron2.utils.file_io import PathManager

__all__ = ["CommonMetricPrinter", "EventStorage", "EventWriter", "JSONWriter"]
__all__ += ["TensorboardXWriter", "get_event_storage", "has_event_storage"]

_active: list["EventStorage"] = []


def get_event_storage() -> "EventStorage":
    """The innermost storage whose ``with`` block is running."""
    assert _active, (
        "get_event_storage() has to be called inside a 'with EventStorage(...)' context!"
    )
    return _active[-1]


def has_event_storage() -> bool:
    """Whether a ``with EventStorage(...)`` block is running."""
    return bool(_active)


class EventStorage:
    """Scalars with their histories, images and histograms, tagged with the current iteration.

    Attributes:
        iter: the current iteration; the trainer sets it.
    """

    def __init__(self, start_iter: int = 0):
        self.iter = start_iter
        self._prefix = ""
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._latest: dict[str, tuple[float, int]] = {}
        self._smoothed: dict[str, bool] = {}
        self._vis_data: list[tuple[str, torch.Tensor, int]] = []
        self._histograms: list[dict] = []

    def put_scalar(self, name, value, smoothing_hint=True, cur_iter=None):
        """Record one value; ``smoothing_hint`` says whether writers should show a median.

        Raises:
            AssertionError: the name was recorded with another hint before.
        """
        name = self._prefix + name
        self._latest[name] = float(value), self.iter if cur_iter is None else cur_iter
        self._history[name].update(*self._latest[name])
        same = self._smoothed.setdefault(name, smoothing_hint) == smoothing_hint
        assert same, f"Scalar {name} was put with a different smoothing_hint!"

    def put_scalars(self, *, smoothing_hint=True, cur_iter=None, **kwargs):
        """Record several values, given as keywords, with one hint."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name, img_tensor):
        """Keep an image, (3, H, W), uint8 or floats in 0..1, for the TensorBoard writer."""
        self._vis_data.append((img_name, img_tensor, self.iter))

    def put_histogram(self, hist_name, hist_tensor, bins=1000):
        """Keep the histogram of a one-dimensional tensor for the TensorBoard writer."""
        low, high = hist_tensor.min().item(), hist_tensor.max().item()
        edges = torch.linspace(low, high, bins + 1, dtype=torch.float32)
        sums = float(hist_tensor.sum()), float(hist_tensor.square().sum())
        histogram = {"tag": hist_name, "min": low, "max": high, "num": len(hist_tensor)}
        histogram |= {"sum": sums[0], "sum_squares": sums[1], "global_step": self.iter}
        histogram["bucket_limits"] = edges[1:].tolist()
        histogram["bucket_counts"] = torch.histc(hist_tensor, bins=bins).tolist()
        self._histograms.append(histogram)

    def history(self, name):
        """The ``HistoryBuffer`` of one scalar.

        Raises:
            KeyError: nothing was recorded under that name.
        """
        if name not in self._history:
            raise KeyError(f"No history metric available for {name}!")
        return self._history[name]

    def histories(self):
        """All histories by name."""
        return self._history

    def latest(self):
        """The last (value, iteration) of every scalar."""
        return self._latest

    def _median(self, name, window_size):
        return self._history[name].median(self.count_samples(name, window_size))

    def latest_with_smoothing_hint(self, window_size=20):
        """As `latest`, but the median over the window where the scalar's hint asks for one."""
        return {
            name: (self._median(name, window_size) if self._smoothed[name] else value, iteration)
            for name, (value, iteration) in self._latest.items()
        }

    def count_samples(self, name, window_size=20):
        """Number of values of a scalar in the last ``window_size`` iterations before its newest."""
        data = self._history[name].values()
        recent = itertools.takewhile(lambda x: x[1] > data[-1][1] - window_size, reversed(data))
        return sum(1 for _ in recent)

    def smoothing_hints(self):
        """Hint of every scalar."""
        return self._smoothed

    def step(self):
        """Go to the next iteration."""
        self.iter += 1

    iteration = property(lambda self: self.iter, doc="Same as ``iter``.")

    def __enter__(self):
        _active.append(self)
        return self

    def __exit__(self, exc_type, exc_val, exc_tb):
        assert _active[-1] is self
        _active.pop()

    @contextlib.contextmanager
    def name_scope(self, name):
        """Put ``name/`` before all names of scalars recorded in this block."""
        outer, self._prefix = self._prefix, name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._prefix = outer

    def clear_images(self):
        """Forget the images, once they are written."""
        self._vis_data = []

    def clear_histograms(self):
        """Forget the histograms, once they are written."""
        self._histograms = []


class EventWriter:
    """Base of what reports the content of the current storage."""

    def write(self):
        raise NotImplementedError

    def close(self):
        pass


class _ScalarWriter(EventWriter):
    """Base of writers that write every value once."""

    def __init__(self, window_size):
        self._window_size, self._last_write = window_size, -1

    def _unwritten(self, storage):
        """(name, value, iteration) of scalars of later iterations than those of the last call."""
        latest = storage.latest_with_smoothing_hint(self._window_size)
        new = [(name, *entry) for name, entry in latest.items() if entry[1] > self._last_write]
        self._last_write = max((step for *_, step in new), default=self._last_write)
        return new


class JSONWriter(_ScalarWriter):
    """Appends one JSON object per iteration that has new scalars to a file."""

    def __init__(self, json_file, window_size=20):
        super().__init__(window_size)
        self._file_handle = PathManager.open(json_file, "a")

    def write(self):
        rows = {}
        for name, value, step in self._unwritten(get_event_storage()):
            rows.setdefault(step, {"iteration": step})[name] = value
        for step in sorted(rows):
            self._file_handle.write(json.dumps(rows[step], sort_keys=True) + "\n")
        self._file_handle.flush()
        with contextlib.suppress(AttributeError):  # remote files have no descriptor
            os.fsync(self._file_handle.fileno())

    def close(self):
        self._file_handle.close()


class TensorboardXWriter(_ScalarWriter):
    """Writes scalars, images and histograms as TensorBoard events."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs):
        super().__init__(window_size)
        self._writer_args = {"log_dir": log_dir, **kwargs}

    @cached_property
    def _writer(self):
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(**self._writer_args)

    def write(self):
        storage = get_event_storage()
        for scalar in self._unwritten(storage):
            self._writer.add_scalar(*scalar)
        for image in storage._vis_data:
            self._writer.add_image(*image)
        for histogram in storage._histograms:
            self._writer.add_histogram_raw(**histogram)
        storage.clear_images()
        storage.clear_histograms()

    def close(self):
        if "_writer" in self.__dict__:  # never opened where nothing was written
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs one line of losses, speed, learning rate, memory and time left."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20):
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter, self._window_size = max_iter, window_size
        self._last_write: tuple[int, float] | None = None  # (iteration, seconds)

    def _get_eta(self, storage) -> str:
        """The words on the time left; none where it isn't known."""
        if self._max_iter is None:
            return ""
        left = self._max_iter - storage.iter - 1
        if "time" in storage.histories():
            seconds = storage.history("time").median(1000) * left
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
        else:  # without an IterationTimer, the time between two writes must do
            previous, self._last_write = self._last_write, (storage.iter, time.perf_counter())
            if previous is None or previous[0] == storage.iter:
                return ""
            iterations, elapsed = np.subtract(self._last_write, previous)
            seconds = elapsed / iterations * left
        return f"eta: {datetime.timedelta(seconds=int(seconds))}  "

    def write(self):
        storage, window = get_event_storage(), self._window_size
        if storage.iter == self._max_iter:
            return  # training is over: what comes now is not progress
        eta, known = self._get_eta(storage), storage.histories()
        losses, metrics = (
            "  ".join(f"{k}: {storage._median(k, window):.4g}" for k in known if mark in k)
            for mark in ("loss", "[metric]")
        )
        times = ""
        for name in ("time", "data_time"):
            if history := known.get(name):
                recent = history.avg(storage.count_samples(name, window))
                average = history.global_avg() if name == "time" else recent
                times += f"{name}: {average:.4f}  last_{name}: {history.latest():.4f}  "
        lr = f"{known['lr'].latest():.5g}" if "lr" in known else "N/A"
        memory = f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M"
        memory = memory if torch.cuda.is_available() else ""
        self.logger.info(
            f" {eta}iter: {storage.iter}  {losses}  {metrics}  {times} lr: {lr}  {memory}"
        )
