"""Loggers with colour and files, calls that log only now and then, and one-row tables."""

import atexit
import functools
import logging
import os
import sys
import time
from collections import Counter

import torch
from tabulate import tabulate
from termcolor import colored

from detectron2.utils.file_io import PathManager

__all__ = ["setup_logger", "log_first_n", "log_every_n", "log_every_n_seconds"]

_PREFIXES = {logging.WARNING: ("WARNING", ["blink"])}
_PREFIXES |= dict.fromkeys((logging.ERROR, logging.CRITICAL), ("ERROR", ["blink", "underline"]))
_DATE = "%m/%d %H:%M:%S"
_LOG_COUNTER = Counter()
_LOG_TIMER = {}


class _ColorfulFormatter(logging.Formatter):
    """Abbreviates the root logger's name and marks warnings and errors in red."""

    def __init__(self, root_name: str, abbrev_name: str):
        super().__init__(colored("[%(asctime)s %(name)s]: ", "green") + "%(message)s", _DATE)
        self._names = f"{root_name}.", abbrev_name and f"{abbrev_name}."

    def formatMessage(self, record):
        record.name = record.name.replace(*self._names)
        text, attrs = _PREFIXES.get(record.levelno, ("", None))
        prefix = colored(text, "red", attrs=attrs) + " " if text else ""
        return prefix + super().formatMessage(record)


@functools.lru_cache  # so that calling it again doesn't add handlers
def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Set the logger `name` to DEBUG, writing to standard output (rank 0 only) and to a file.

    Args:
        output: file that ends in ".txt" or ".log", or folder for a "log.txt"; None: no file. Ranks
            above 0 write beside it with the suffix ".rankN".
        distributed_rank: rank of this process.
        color: colour on standard output.
        name: root name of the logger.
        abbrev_name: what stands for `name` on standard output; "d2" for "detectron2" by default.
        enable_propagation: pass records on to the parents' handlers too.
        configure_stdout: False leaves standard output alone.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    if abbrev_name is None:
        abbrev_name = "d2" if name == "detectron2" else name
    plain = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", _DATE)
    targets = []
    if configure_stdout and distributed_rank == 0:
        targets.append((sys.stdout, _ColorfulFormatter(name, abbrev_name) if color else plain))
    if output is not None:
        is_file = output.endswith((".txt", ".log"))
        filename = output if is_file else os.path.join(output, "log.txt")
        filename += f".rank{distributed_rank}" if distributed_rank > 0 else ""
        PathManager.mkdirs(os.path.dirname(filename) or ".")
        targets.append((_cached_log_stream(filename), plain))
    for stream, formatter in targets:
        handler = logging.StreamHandler(stream)
        handler.setLevel(logging.DEBUG)
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    return logger


@functools.cache  # loggers of several names can share a file
def _cached_log_stream(filename: str):
    stream = PathManager.open(filename, "a")
    atexit.register(stream.close)
    return stream


def _find_caller() -> tuple[str, tuple]:
    """Module name, and (file, line, function), of the first frame outside this file."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename == __file__:
        frame = frame.f_back
    module = frame.f_globals["__name__"]
    key = (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
    return ("detectron2" if module == "__main__" else module), key


def log_first_n(lvl: int, msg: str, n: int = 1, *, name: str | None = None, key="caller") -> None:
    """Log only the first `n` times.

    Args:
        lvl: logging level.
        msg: message.
        n: how many times.
        name: logger; the caller's module by default.
        key: what makes two calls the same: "caller" (file and line), "message", or a tuple of both.
    """
    keys = (key,) if isinstance(key, str) else key
    assert len(keys) > 0
    module, caller = _find_caller()
    seen = (caller if "caller" in keys else ()) + ((msg,) if "message" in keys else ())
    _LOG_COUNTER[seen] += 1
    if _LOG_COUNTER[seen] <= n:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n(lvl: int, msg: str, n: int = 1, *, name: str | None = None) -> None:
    """Log the first of every `n` calls from the same line."""
    module, key = _find_caller()
    _LOG_COUNTER[key] += 1
    if n == 1 or _LOG_COUNTER[key] % n == 1:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n_seconds(lvl: int, msg: str, n: int = 1, *, name: str | None = None) -> None:
    """Log from the same line at most once in `n` seconds."""
    module, key = _find_caller()
    now = time.time()
    if now - _LOG_TIMER.get(key, -float("inf")) >= n:
        logging.getLogger(name or module).log(lvl, msg)
        _LOG_TIMER[key] = now


def create_small_table(small_dict: dict) -> str:
    """Table of one row, in Markdown, with the keys as headers: for small dicts only."""
    style = {"tablefmt": "pipe", "floatfmt": ".3f", "stralign": "center", "numalign": "center"}
    return tabulate([list(small_dict.values())], headers=list(small_dict), **style)


def _log_api_usage(identifier: str) -> None:
    """Tell PyTorch's usage logging (a no-op unless it was built with one)."""
    torch._C._log_api_usage_once("detectron2." + identifier)
