"""Hooks of the training loop: timing, writing, saving, schedules, evaluation, profiling."""

import datetime
import itertools
import logging
import math
import operator
import os
import time
from collections import Counter

import torch
from fvcore.common.checkpoint import Checkpointer, PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler
from fvcore.common.timer import Timer
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats

import detectron2.utils.comm as comm
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.solver import LRMultiplier, LRScheduler as _TorchLRScheduler
from detectron2.utils.events import EventStorage, EventWriter
from detectron2.utils.file_io import PathManager

from .train_loop import HookBase

__all__ = [
    "AutogradProfiler",
    "BestCheckpointer",
    "CallbackHook",
    "EvalHook",
    "IterationTimer",
    "LRScheduler",
    "PeriodicCheckpointer",
    "PeriodicWriter",
    "PreciseBN",
    "TorchMemoryStats",
    "TorchProfiler",
]


def _is_last(trainer) -> bool:
    return trainer.iter + 1 == trainer.max_iter


def _has_finished(trainer) -> bool:
    """Whether ``after_train`` runs after a training that did not fail."""
    return trainer.iter + 1 >= trainer.max_iter


class CallbackHook(HookBase):
    """Calls the given functions with the trainer."""

    def __init__(self, *, before_train=None, after_train=None, before_step=None, after_step=None):
        self._before_train = before_train
        self._after_train = after_train
        self._before_step = before_step
        self._after_step = after_step

    def _call(self, function):
        if function:
            function(self.trainer)

    def before_train(self):
        self._call(self._before_train)

    def after_train(self):
        self._call(self._after_train)
        # The functions may be closures over the trainer.
        del self._before_train, self._after_train, self._before_step, self._after_step

    def before_step(self):
        self._call(self._before_step)

    def after_step(self):
        self._call(self._after_step)


class IterationTimer(HookBase):
    """Records seconds per iteration as ``time``, and logs a summary at the end.

    Args:
        warmup_iter: number of first iterations that are not counted.
    """

    def __init__(self, warmup_iter=3):
        self._warmup_iter = warmup_iter
        self._start_time = time.perf_counter()
        self._step_timer = Timer()
        self._total_timer = Timer()

    def before_train(self):
        self._start_time = time.perf_counter()
        self._total_timer.reset()
        self._total_timer.pause()

    def after_train(self):
        logger = logging.getLogger(__name__)
        total = time.perf_counter() - self._start_time
        in_steps = self._total_timer.seconds()
        count = self.trainer.storage.iter + 1 - self.trainer.start_iter - self._warmup_iter

        def pretty(seconds):
            return str(datetime.timedelta(seconds=int(seconds)))

        if count > 0 and in_steps > 0:
            logger.info(
                f"Overall training speed: {count} iterations in {pretty(in_steps)} "
                f"({in_steps / count:.4f} s / it)"
            )
        logger.info(f"Total training time: {pretty(total)} ({pretty(total - in_steps)} on hooks)")

    def before_step(self):
        self._step_timer.reset()
        self._total_timer.resume()

    def after_step(self):
        done = self.trainer.storage.iter - self.trainer.start_iter + 1
        if done >= self._warmup_iter:
            self.trainer.storage.put_scalars(time=self._step_timer.seconds())
        else:
            self._start_time = time.perf_counter()
            self._total_timer.reset()
        self._total_timer.pause()


class PeriodicWriter(HookBase):
    """Lets writers write every ``period`` iterations, and closes them after training."""

    def __init__(self, writers, period=20):
        for writer in writers:
            assert isinstance(writer, EventWriter), writer
        self._writers = writers
        self._period = period

    def after_step(self):
        if (self.trainer.iter + 1) % self._period == 0 or _is_last(self.trainer):
            for writer in self._writers:
                writer.write()

    def after_train(self):
        for writer in self._writers:
            writer.write()  # what other hooks recorded after training
            writer.close()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's `PeriodicCheckpointer` as a hook."""

    def before_train(self):
        self.max_iter = self.trainer.max_iter

    def after_step(self):
        self.step(self.trainer.iter)


class BestCheckpointer(HookBase):
    """Saves a checkpoint after those evaluations that improve a metric.

    Args:
        eval_period: that of the `EvalHook`, which must be registered before.
        checkpointer: saves it.
        val_metric: name of the metric in the event storage, e.g. "bbox/AP50".
        mode: "max" or "min".
        file_prefix: name of the checkpoint.
    """

    def __init__(
        self,
        eval_period: int,
        checkpointer: Checkpointer,
        val_metric: str,
        mode: str = "max",
        file_prefix: str = "model_best",
    ) -> None:
        assert mode in ("max", "min"), (
            f'Mode "{mode}" to `BestCheckpointer` is unknown. It should be one of {{"max", "min"}}.'
        )
        self._logger = logging.getLogger(__name__)
        self._period = eval_period
        self._val_metric = val_metric
        self._compare = operator.gt if mode == "max" else operator.lt
        self._checkpointer = checkpointer
        self._file_prefix = file_prefix
        self.best_metric = None
        self.best_iter = None

    def _update_best(self, val, iteration):
        if not math.isfinite(val):
            return False
        self.best_metric, self.best_iter = val, iteration
        return True

    def _best_checking(self):
        latest = self.trainer.storage.latest().get(self._val_metric)
        if latest is None:
            self._logger.warning(
                f"Given val metric {self._val_metric} does not seem to be computed/stored. "
                "Will not be checkpointing based on it."
            )
            return
        metric, iteration = latest
        before, before_iter = self.best_metric, self.best_iter
        better = before is None or self._compare(metric, before)
        if better and self._update_best(metric, iteration):
            self._checkpointer.save(self._file_prefix, iteration=iteration)
            if before is None:
                self._logger.info(f"Saved first model at {metric:0.5f} @ {iteration} steps")
            else:
                self._logger.info(
                    f"Saved best model as latest eval score for {self._val_metric} is "
                    f"{metric:0.5f}, better than last best score {before:0.5f} @ iteration "
                    f"{before_iter}."
                )
        elif before is not None:
            self._logger.info(
                f"Not saving as latest eval score for {self._val_metric} is {metric:0.5f}, "
                f"not better than best score {before:0.5f} @ iteration {before_iter}."
            )

    def after_step(self):
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._best_checking()

    def after_train(self):
        if _has_finished(self.trainer):
            self._best_checking()


class LRScheduler(HookBase):
    """Steps a schedule every iteration and records the learning rate as ``lr``.

    Args:
        optimizer: the trainer's by default.
        scheduler: a torch scheduler or an fvcore ``ParamScheduler``, which then multiplies the
            optimizer's initial rates; the trainer's by default.
    """

    def __init__(self, optimizer=None, scheduler=None):
        self._optimizer = optimizer
        self._scheduler = scheduler

    def before_train(self):
        self._optimizer = self._optimizer or self.trainer.optimizer
        if isinstance(self.scheduler, ParamScheduler):
            self._scheduler = LRMultiplier(
                self._optimizer,
                self.scheduler,
                self.trainer.max_iter,
                last_iter=self.trainer.iter - 1,
            )
        self._best_param_group_id = LRScheduler.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer):
        """The group whose rate speaks for all: the largest, else one of the commonest rate."""
        sizes = [len(group["params"]) for group in optimizer.param_groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in optimizer.param_groups]
        return rates.index(Counter(rates).most_common(1)[0][0])

    def after_step(self):
        lr = self._optimizer.param_groups[self._best_param_group_id]["lr"]
        self.trainer.storage.put_scalar("lr", lr, smoothing_hint=False)
        self.scheduler.step()

    @property
    def scheduler(self):
        return self._scheduler or self.trainer.scheduler

    def state_dict(self):
        if isinstance(self.scheduler, _TorchLRScheduler):
            return self.scheduler.state_dict()
        return {}

    def load_state_dict(self, state_dict):
        if isinstance(self.scheduler, _TorchLRScheduler):
            logging.getLogger(__name__).info("Loading scheduler from state_dict ...")
            self.scheduler.load_state_dict(state_dict)


class _Profiler(HookBase):
    """Runs a profiler around the iterations for which a predicate of the trainer holds."""

    def __init__(self, enable_predicate, output_dir):
        self._enable_predicate = enable_predicate
        self._output_dir = output_dir
        self._profiler = None

    def _make(self):
        raise NotImplementedError

    def _export(self):
        PathManager.mkdirs(self._output_dir)
        name = f"profiler-trace-iter{self.trainer.iter}.json"
        self._profiler.export_chrome_trace(
            PathManager.get_local_path(os.path.join(self._output_dir, name))
        )

    def before_step(self):
        if self._enable_predicate(self.trainer):
            self._profiler = self._make()
            self._profiler.__enter__()

    def after_step(self):
        if self._profiler is None:
            return
        self._profiler.__exit__(None, None, None)
        self._export()
        self._profiler = None


class TorchProfiler(_Profiler):
    """Runs ``torch.profiler.profile`` in chosen iterations.

    Args:
        enable_predicate: function of the trainer that says whether to profile this iteration.
        output_dir: where traces go.
        activities: as in ``torch.profiler.profile``.
        save_tensorboard: write TensorBoard traces to ``<output_dir>/log``, not Chrome's.
    """

    def __init__(self, enable_predicate, output_dir, *, activities=None, save_tensorboard=True):
        super().__init__(enable_predicate, output_dir)
        self._activities = activities
        self._save_tensorboard = save_tensorboard

    def _make(self):
        on_trace_ready = None
        if self._save_tensorboard:
            on_trace_ready = torch.profiler.tensorboard_trace_handler(
                os.path.join(
                    self._output_dir, "log", f"profiler-tensorboard-iter{self.trainer.iter}"
                ),
                f"worker{comm.get_rank()}",
            )
        return torch.profiler.profile(
            activities=self._activities,
            on_trace_ready=on_trace_ready,
            record_shapes=True,
            profile_memory=True,
            with_stack=True,
            with_flops=True,
        )

    def _export(self):
        if not self._save_tensorboard:
            super()._export()


class AutogradProfiler(_Profiler):
    """Runs ``torch.autograd.profiler.profile`` in chosen iterations; writes Chrome's traces."""

    def __init__(self, enable_predicate, output_dir, *, use_cuda=True):
        super().__init__(enable_predicate, output_dir)
        self._use_cuda = use_cuda

    def _make(self):
        device = "cuda" if self._use_cuda and torch.cuda.is_available() else None
        return torch.autograd.profiler.profile(use_device=device)


class EvalHook(HookBase):
    """Evaluates periodically, and after a training that did not fail.

    Args:
        eval_period: in iterations; 0 for no evaluation during training.
        eval_function: returns a nested dict of numbers, which go into the event storage. All
            processes call it.
        eval_after_train: evaluate after training too.
    """

    def __init__(self, eval_period, eval_function, eval_after_train=True):
        self._period = eval_period
        self._func = eval_function
        self._eval_after_train = eval_after_train

    def _do_eval(self):
        results = self._func()
        if results:
            assert isinstance(results, dict), f"Eval function must return a dict. Got {results}."
            flat = flatten_results_dict(results)
            for name, value in flat.items():
                try:
                    float(value)
                except Exception as error:
                    raise ValueError(
                        "[EvalHook] eval_function should return a nested dict of float. "
                        f"Got '{name}: {value}' instead."
                    ) from error
            self.trainer.storage.put_scalars(**flat, smoothing_hint=False)
        # The processes may need different times.
        comm.synchronize()

    def after_step(self):
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._do_eval()

    def after_train(self):
        if self._eval_after_train and _has_finished(self.trainer):
            self._do_eval()
        del self._func  # likely a closure over the trainer


class PreciseBN(HookBase):
    """Recomputes the statistics of BatchNorm layers periodically and at the last iteration.

    Args:
        period: in iterations; 0 for the last one only.
        model: the model, in training mode.
        data_loader: its batches are used, one iterator for all updates.
        num_iter: number of batches per update.
    """

    def __init__(self, period, model, data_loader, num_iter):
        self._logger = logging.getLogger(__name__)
        self._disabled = len(get_bn_modules(model)) == 0
        if self._disabled:
            self._logger.info(
                "PreciseBN is disabled because model does not contain BN layers in training mode."
            )
            return
        self._period = period
        self._model = model
        self._data_loader = data_loader
        self._num_iter = num_iter
        self._data_iter = None

    def after_step(self):
        if self._disabled:
            return
        done = self.trainer.iter + 1
        if _is_last(self.trainer) or (self._period > 0 and done % self._period == 0):
            self.update_stats()

    def update_stats(self):
        """Recompute the statistics now."""
        if self._disabled:
            return
        if self._data_iter is None:
            self._data_iter = iter(self._data_loader)

        def batches():
            for count in itertools.count(1):
                if count % 100 == 0:
                    self._logger.info(
                        f"Running precise-BN ... {count}/{self._num_iter} iterations."
                    )
                yield next(self._data_iter)

        with EventStorage():  # what the model records meanwhile is dropped
            self._logger.info(
                f"Running precise-BN for {self._num_iter} iterations...  "
                "Note that this could produce different statistics every time."
            )
            update_bn_stats(self._model, batches(), self._num_iter)


class TorchMemoryStats(HookBase):
    """Logs CUDA memory periodically.

    Args:
        period: in iterations.
        max_runs: stop after so many.
    """

    def __init__(self, period=20, max_runs=10):
        self._logger = logging.getLogger(__name__)
        self._period = period
        self._max_runs = max_runs
        self._runs = 0

    def after_step(self):
        if self._runs > self._max_runs or not torch.cuda.is_available():
            return
        if (self.trainer.iter + 1) % self._period != 0 and not _is_last(self.trainer):
            return
        readings = {
            "max_reserved_mem": torch.cuda.max_memory_reserved(),
            "reserved_mem": torch.cuda.memory_reserved(),
            "max_allocated_mem": torch.cuda.max_memory_allocated(),
            "allocated_mem": torch.cuda.memory_allocated(),
        }
        text = "  ".join(f"{name}: {size / 2**20:.0f}MB" for name, size in readings.items())
        self._logger.info(f" iter: {self.trainer.iter}  {text}")
        self._runs += 1
        if self._runs == self._max_runs:
            self._logger.info("\n" + torch.cuda.memory_summary())
        torch.cuda.reset_peak_memory_stats()
