"""The evaluator interface and the timed loop over a data set."""

import datetime
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator, MutableSequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from detectron2.utils.comm import get_world_size, is_main_process
from detectron2.utils.logger import log_every_n_seconds

_WARMUP_BATCHES = 5


class DatasetEvaluator:
    """Accumulates over pairs of inputs and outputs, then gives results.

    ``inference_on_dataset`` calls `reset`, `process` for every batch, and `evaluate` once.
    """

    def reset(self):
        """Forget everything; called before the first batch."""

    def process(self, inputs, outputs):
        """Take one batch.

        Args:
            inputs: the list of dicts that went into the model.
            outputs: the list of its outputs, one for each input.
        """

    def evaluate(self):
        """Results, as a dict ``{task: {metric: value}}`` on the main process."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one; their results may not share a key."""

    def __init__(self, evaluators):
        super().__init__()
        self._evaluators = evaluators

    def reset(self):
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs, outputs):
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self):
        merged = OrderedDict()
        for evaluator in self._evaluators:
            result = evaluator.evaluate()
            for key, value in (result or {}).items() if is_main_process() else ():
                assert key not in merged, f"Different evaluators produce the same key {key}"
                merged[key] = value
        return merged


class _Clock:
    """Seconds spent by phase since the warm-up."""

    def __init__(self):
        self.restart()

    def restart(self):
        self.start = self._last = time.perf_counter()
        self.spent = {"data": 0.0, "compute": 0.0, "eval": 0.0}

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.spent[phase] += now - self._last
        self._last = now

    def total(self) -> float:
        return time.perf_counter() - self.start


def _log_progress(clock: _Clock, done: int, counted: int, total: int) -> None:
    data, compute, evaluation = (clock.spent[k] / counted for k in ("data", "compute", "eval"))
    overall = clock.total() / counted
    eta = datetime.timedelta(seconds=int(overall * (total - done)))
    log_every_n_seconds(
        logging.INFO,
        f"Inference done {done}/{total}. Dataloading: {data:.4f} s/iter. "
        f"Inference: {compute:.4f} s/iter. Eval: {evaluation:.4f} s/iter. "
        f"Total: {overall:.4f} s/iter. ETA={eta}",
        n=5,
        name=__name__,
    )


def inference_on_dataset(model, data_loader, evaluator, callbacks=None):
    """Run `model` on the whole loader, feed the evaluator, and return its results.

    Modules run in eval mode and get their mode back afterwards; other callables run as they are.

    Args:
        model: takes a batch of the loader and returns a list of outputs.
        data_loader: has a length; its batches are lists of dicts.
        evaluator: one, several, or None to run only.
        callbacks: functions without arguments by name: "on_start", "before_inference",
            "after_inference", "on_end".

    Returns:
        what ``evaluator.evaluate()`` returns, {} instead of None.
    """
    logger = logging.getLogger(__name__)
    total, devices = len(data_loader), get_world_size()
    logger.info(f"Start inference on {total} batches")
    if evaluator is None or isinstance(evaluator, MutableSequence):
        evaluator = DatasetEvaluators(evaluator or [])
    evaluator.reset()

    def call(name: str) -> None:
        (callbacks or {}).get(name, lambda: None)()

    warmup = min(_WARMUP_BATCHES, total - 1)
    clock = _Clock()
    with ExitStack() as stack:
        if isinstance(model, nn.Module):
            stack.enter_context(inference_context(model))
        stack.enter_context(torch.no_grad())
        call("on_start")
        for index, inputs in enumerate(data_loader):
            clock.lap("data")
            if index == warmup:
                clock.restart()
            call("before_inference")
            outputs = model(inputs)
            call("after_inference")
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            clock.lap("compute")
            evaluator.process(inputs, outputs)
            clock.lap("eval")
            counted = index + 1 - (warmup if index >= warmup else 0)
            if index >= warmup * 2 or clock.spent["compute"] / counted > 5:
                _log_progress(clock, index + 1, counted, total)
        call("on_end")

    for name, seconds in (("", clock.total()), (" pure compute", clock.spent["compute"])):
        logger.info(
            f"Total inference{name} time: {datetime.timedelta(seconds=int(seconds))} "
            f"({seconds / (total - warmup):.6f} s / iter per device, on {devices} devices)"
        )
    results = evaluator.evaluate()
    return {} if results is None else results


@contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, the mode from before afterwards."""
    training = model.training
    model.eval()
    yield
    model.train(training)
