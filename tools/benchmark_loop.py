#!/usr/bin/env python
"""Measures what the training loop itself takes per iteration, around a model that does nothing.

    python tools/benchmark_loop.py [--iterations 2000] [--rounds 5]

Each row adds something to the row above it; rounds of all rows are interleaved, and the median of
the rounds is shown. Where other programs run, CPU time tells more than the clock. The last row is
the loop of tools/lazyconfig_train_net.py.
"""

import argparse
import contextlib
import io
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is not installed

import lvt_d2  # noqa: I001  decides which engine answers to the imports below
import torch
from detectron2.engine import HookBase, SimpleTrainer, hooks
from detectron2.utils.logger import setup_logger
from fvcore.common.param_scheduler import CosineParamScheduler
from lvt_d2.checkpoint import LVTCheckpointer
from lvt_d2.engine import (
    Checkpoints,
    Evaluation,
    EventHistory,
    ProgressBar,
    Trainer,
    build_ema,
    writer_hooks,
)
from tabulate import tabulate
from torch import nn

LOG_PERIOD = 20
LOSSES = ("loss_cls", "loss_box", "loss_mask", "loss_rpn_cls", "loss_rpn_loc", "loss_sem_seg")


class Nothing(nn.Module):
    """Gives as many losses as a panoptic model, of no computation to speak of."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.ones(len(LOSSES)))

    def forward(self, batch) -> dict[str, torch.Tensor]:
        return dict(zip(LOSSES, self.weights.unbind(), strict=True))


class Batches:
    """The same batch without end."""

    def __iter__(self):
        while True:
            yield [{"image": None, "file_name": "0.jpg"}]

    def state_dict(self) -> dict:
        return {}


def plain(iterations: int, folder: str) -> SimpleTrainer:
    """Detectron2's loop without hooks: forward, backward, update, losses recorded."""
    model = Nothing()
    return SimpleTrainer(model, Batches(), torch.optim.SGD(model.parameters(), lr=1e-9))


def ours(iterations: int, folder: str) -> Trainer:
    """The same step with checks, without hooks."""
    model = Nothing()
    return Trainer(model, Batches(), torch.optim.SGD(model.parameters(), lr=1e-9))


def with_hooks(iterations: int, folder: str) -> Trainer:
    """Timer, rate, history, checkpoints and evaluation, of which none comes."""
    trainer = ours(iterations, folder)
    checkpointer = LVTCheckpointer(trainer.model, folder, trainer=trainer)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=CosineParamScheduler(1.0, 0.0)),
            EventHistory(),
            Checkpoints(checkpointer, 10**9),
            Evaluation(10**9, dict),
        ]
    )
    return trainer


def with_files(iterations: int, folder: str) -> Trainer:
    """And log.txt, metrics.json and TensorBoard every 20 iterations."""
    trainer = with_hooks(iterations, folder)
    trainer.register_hooks(writer_hooks(folder, iterations, LOG_PERIOD))
    return trainer


def with_bar(iterations: int, folder: str) -> Trainer:
    """And the bar that a terminal shows."""
    trainer = with_files(iterations, folder)
    bar = ProgressBar(iterations, 10**9, terminal=True)
    trainer.register_hooks([hooks.PeriodicWriter([bar], period=1)])
    return trainer


def with_average(iterations: int, folder: str) -> Trainer:
    """And averaged weights (train.ema)."""
    trainer = with_bar(iterations, folder)
    ema = build_ema(trainer.model, 0.999)
    update = hooks.CallbackHook(after_step=lambda _: ema.update_parameters(trainer.model))
    trainer.register_hooks([update])
    return trainer


ROWS: dict[str, Callable[[int, str], SimpleTrainer]] = {
    "Detectron2's SimpleTrainer": plain,
    "Trainer": ours,
    "+ hooks": with_hooks,
    "+ log, metrics.json, TensorBoard": with_files,
    "+ progress bar": with_bar,
    "+ averaged weights": with_average,
}


def measure(build: Callable[[int, str], SimpleTrainer], iterations: int) -> tuple[float, float]:
    """Seconds per iteration of one training, by the clock and of CPU time in all threads.

    The start and the end, which saves a checkpoint, do not count.
    """
    times = []

    class Clock(HookBase):
        def after_step(self) -> None:
            times.append((time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory() as folder:
        setup_logger(folder, name="lvt_d2")
        trainer = build(iterations, folder)
        trainer.register_hooks([Clock()])
        with contextlib.redirect_stderr(io.StringIO()):
            trainer.train(0, iterations)
        for name in ("lvt_d2", "detectron2"):
            logging.getLogger(name).handlers.clear()
        setup_logger.cache_clear()
    first = iterations // 10  # warm-up; the last iteration saves a checkpoint
    spans = zip(times[-2], times[first], strict=True)
    clock, cpu = ((end - start) / (len(times) - 2 - first) for end, start in spans)
    return clock, cpu


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--iterations", type=int, default=2000, metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    args = parser.parse_args(argv)
    if args.iterations < 20 or args.rounds < 1:
        parser.error("--iterations must be 20 or more and --rounds 1 or more")
    torch.set_num_threads(1)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ROWS}
    with contextlib.redirect_stdout(io.StringIO()):  # the log of training
        for _ in range(args.rounds):
            for name, build in ROWS.items():
                found[name].append(measure(build, args.iterations))
    rows = []
    for name, times in found.items():
        clock, cpu = ([1e3 * t for t in column] for column in zip(*times, strict=True))
        medians = statistics.median(clock), statistics.median(cpu)
        rows.append((name, *medians, f"{min(clock):.3f}-{max(clock):.3f}"))
    print(f"Engine {lvt_d2.ENGINE}, PyTorch {torch.__version__}, {args.iterations} iterations")
    print(
        tabulate(
            rows,
            ["loop", "ms/iteration", "of CPU time", "min-max"],
            floatfmt=".3f",
            tablefmt="github",
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
