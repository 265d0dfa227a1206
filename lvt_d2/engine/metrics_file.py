"""The file of numbers by iteration, each of them once however often training was resumed."""

import json
import os

from detectron2.utils.events import EventWriter, get_event_storage

from lvt_d2.errors import LVTError


class MetricsFile(EventWriter):
    """Detectron2's `JSONWriter`, for a file that an interrupted training has left.

    Args:
        path: one JSON object per line; appended to.
        resume_iter: first iteration that is going to be done by a resumed training: lines from
            there on are cut, as is one that a crash has torn. None leaves the file as it is.
        window_size: smoothed scalars are medians over so many iterations.

    Raises:
        LVTError: the file can't be written.
    """

    def __init__(self, path: str, resume_iter: int | None = None, window_size: int = 20):
        self._path = path
        self._window_size = window_size
        self._last_iter = -1
        try:
            if resume_iter is not None and os.path.exists(path):
                self._last_iter = _cut(path, resume_iter)
            self._file = open(path, "a")
        except OSError as error:
            raise self._refusal(error) from error

    def write(self) -> None:
        """Append a line for each iteration with scalars that are not in the file."""
        lines: dict[int, dict] = {}
        scalars = get_event_storage().latest_with_smoothing_hint(self._window_size)
        for name, (value, iteration) in scalars.items():
            if iteration > self._last_iter:
                lines.setdefault(iteration, {"iteration": iteration})[name] = value
        try:
            for iteration in sorted(lines):
                self._file.write(json.dumps(lines[iteration], sort_keys=True) + "\n")
                self._last_iter = iteration
            self._file.flush()
        except OSError as error:
            raise self._refusal(error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _refusal(self, error: OSError) -> LVTError:
        return LVTError(
            f"{self._path} could not be written: {error.strerror}. Make room, or give another "
            "train.output_dir; --resume goes on from the last checkpoint"
        )


def _cut(path: str, resume_iter: int) -> int:
    """Cut lines from this iteration on off the end; returns the last iteration that is left."""
    with open(path, "rb") as file:
        lines = file.readlines()
    last = -1
    while lines:
        last = _iteration(lines[-1])
        if 0 <= last < resume_iter:
            break
        lines.pop()
        last = -1
    os.truncate(path, sum(len(line) for line in lines))
    return last


def _iteration(line: bytes) -> int:
    """The iteration of a line, -1 if it is torn."""
    try:
        return json.loads(line)["iteration"] if line.endswith(b"\n") else -1
    except (ValueError, KeyError, TypeError):
        return -1
