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
    """Scalars with their histories, images and histograms, tagged with the current iteration."""

    def __init__(self, start_iter: int = 0):
        self._iter = start_iter
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
        hint = self._smoothed.setdefault(name, smoothing_hint)
        entry = (float(value), self._iter if cur_iter is None else cur_iter)
        self._history[name].update(*entry)
        self._latest[name] = entry
        assert hint == smoothing_hint, f"Scalar {name} was put with a different smoothing_hint!"

    def put_scalars(self, *, smoothing_hint=True, cur_iter=None, **kwargs):
        """Record several values, given as keywords, with one hint."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name, img_tensor):
        """Keep an image, (3, H, W), uint8 or floats in 0..1, for the TensorBoard writer."""
        self._vis_data.append((img_name, img_tensor, self._iter))

    def put_histogram(self, hist_name, hist_tensor, bins=1000):
        """Keep the histogram of a one-dimensional tensor for the TensorBoard writer."""
        low, high = hist_tensor.min().item(), hist_tensor.max().item()
        edges = torch.linspace(low, high, bins + 1, dtype=torch.float32)
        histogram = {"tag": hist_name, "min": low, "max": high, "num": len(hist_tensor)}
        histogram |= {
            "sum": float(hist_tensor.sum()),
            "sum_squares": float(hist_tensor.square().sum()),
            "bucket_limits": edges[1:].tolist(),
            "bucket_counts": torch.histc(hist_tensor, bins=bins).tolist(),
            "global_step": self._iter,
        }
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

    def latest_with_smoothing_hint(self, window_size=20):
        """As `latest`, but the median over the window where the scalar's hint asks for one."""
        result = dict(self._latest)
        for name, (_, iteration) in self._latest.items():
            if self._smoothed[name]:
                window = self.count_samples(name, window_size)
                result[name] = self._history[name].median(window), iteration
        return result

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
        self._iter += 1

    @property
    def iter(self):
        """Current iteration; the trainer sets it."""
        return self._iter

    @iter.setter
    def iter(self, val):
        self._iter = int(val)

    iteration = property(lambda self: self._iter, doc="Same as ``iter``.")

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


def _unwritten(storage, window_size: int, last_write: int):
    """Scalars recorded after an iteration, as (name, value, iteration)."""
    latest = storage.latest_with_smoothing_hint(window_size)
    return [(k, value, step) for k, (value, step) in latest.items() if step > last_write]


class JSONWriter(EventWriter):
    """Appends one JSON object per iteration that has new scalars to a file."""

    def __init__(self, json_file, window_size=20):
        self._file_handle = PathManager.open(json_file, "a")
        self._window_size = window_size
        self._last_write = -1

    def write(self):
        rows, storage = {}, get_event_storage()
        for name, value, step in _unwritten(storage, self._window_size, self._last_write):
            rows.setdefault(step, {"iteration": step})[name] = value
        for step in sorted(rows):
            self._file_handle.write(json.dumps(rows[step], sort_keys=True) + "\n")
            self._last_write = step
        self._file_handle.flush()
        with contextlib.suppress(AttributeError):  # remote files have no descriptor
            os.fsync(self._file_handle.fileno())

    def close(self):
        self._file_handle.close()


class TensorboardXWriter(EventWriter):
    """Writes scalars, images and histograms as TensorBoard events."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs):
        self._window_size = window_size
        self._writer_args = {"log_dir": log_dir, **kwargs}
        self._last_write = -1

    @cached_property
    def _writer(self):
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(**self._writer_args)

    def write(self):
        storage = get_event_storage()
        written = self._last_write
        for name, value, step in _unwritten(storage, self._window_size, written):
            self._writer.add_scalar(name, value, step)
            self._last_write = max(self._last_write, step)
        for image in storage._vis_data:
            self._writer.add_image(*image)
        storage.clear_images()
        for histogram in storage._histograms:
            self._writer.add_histogram_raw(**histogram)
        storage.clear_histograms()

    def close(self):
        if "_writer" in self.__dict__:  # never opened where nothing was written
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs one line of losses, speed, learning rate, memory and time left."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20):
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter = max_iter
        self._window_size = window_size
        self._last_write: tuple[int, float] | None = None  # (iteration, seconds)

    def _get_eta(self, storage) -> str | None:
        if self._max_iter is None:
            return ""
        left = self._max_iter - storage.iter - 1
        try:
            seconds = storage.history("time").median(1000) * left
        except KeyError:  # without an IterationTimer, the time between two writes must do
            previous, now = self._last_write, (storage.iter, time.perf_counter())
            self._last_write = now
            if previous is None or previous[0] == now[0]:
                return None
            seconds = (now[1] - previous[1]) / (now[0] - previous[0]) * left
        else:
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
        return str(datetime.timedelta(seconds=int(seconds)))

    def _medians(self, storage, mark: str) -> str:
        return "  ".join(
            f"{name}: {history.median(storage.count_samples(name, self._window_size)):.4g}"
            for name, history in storage.histories().items()
            if mark in name
        )

    def _times(self, storage) -> str:
        known, text = storage.histories(), ""
        for name in ("time", "data_time"):
            if history := known.get(name):
                window = storage.count_samples(name, self._window_size)
                average = history.global_avg() if name == "time" else history.avg(window)
                text += f"{name}: {average:.4f}  last_{name}: {history.latest():.4f}  "
        return text

    def write(self):
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return  # training is over: what comes now is not progress
        known = storage.histories()
        lr = f"{known['lr'].latest():.5g}" if "lr" in known else "N/A"
        eta = self._get_eta(storage)
        memory = ""
        if torch.cuda.is_available():
            memory = f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M"
        self.logger.info(
            f" {f'eta: {eta}  ' if eta else ''}iter: {storage.iter}"
            f"  {self._medians(storage, 'loss')}  {self._medians(storage, '[metric]')}"
            f"  {self._times(storage)} lr: {lr}  {memory}"
        )
