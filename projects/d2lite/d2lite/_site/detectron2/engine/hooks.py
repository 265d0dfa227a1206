"""Hooks of the training loop: timing, writing, saving, schedules, evaluation, profiling."""

import datetime
import logging
import math
import os
import time

import torch
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler
from fvcore.common.timer import Timer
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats

import detectron2.utils.comm as comm
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.solver import LRMultiplier, LRScheduler as _TorchLRScheduler
from detectron2.utils.events import EventStorage, EventWriter
from detectron2.utils.file_io import PathManager

from .train_loop import HookBase

__all__ = ["BestCheckpointer", "CallbackHook", "EvalHook", "IterationTimer", "LRScheduler"]
__all__ += ["PeriodicCheckpointer", "PeriodicWriter", "PreciseBN", "TorchMemoryStats"]
__all__ += ["TorchProfiler"]

logger = logging.getLogger(__name__)


def _is_last(trainer) -> bool:
    return trainer.iter + 1 == trainer.max_iter


def _ends_period(trainer, period: int) -> bool:
    """Whether this is the last of every ``period`` iterations; never, if that is 0."""
    return period > 0 and (trainer.iter + 1) % period == 0


class CallbackHook(HookBase):
    """Calls the given functions with the trainer."""

    def __init__(self, *, before_train=None, after_train=None, before_step=None, after_step=None):
        self._before_train, self._after_train = before_train, after_train
        self._before_step, self._after_step = before_step, after_step

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
        self._step_timer, self._total_timer = Timer(), Timer()

    def before_train(self):
        self._start_time = time.perf_counter()
        self._total_timer.reset()
        self._total_timer.pause()

    def after_train(self):
        total = datetime.timedelta(seconds=int(time.perf_counter() - self._start_time))
        in_steps = self._total_timer.seconds()
        steps = datetime.timedelta(seconds=int(in_steps))
        count = self.trainer.storage.iter + 1 - self.trainer.start_iter - self._warmup_iter
        if count > 0 and in_steps > 0:
            speed = f"{count} iterations in {steps} ({in_steps / count:.4f} s / it)"
            logger.info(f"Overall training speed: {speed}")
        logger.info(f"Total training time: {total} ({total - steps} on hooks)")

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
        self._writers, self._period = writers, period

    def after_step(self):
        if _ends_period(self.trainer, self._period) or _is_last(self.trainer):
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


class _Evaluating(HookBase):
    """Calls `_do_eval` at the end of every period, and after a training that did not fail.

    At the last iteration it waits until training is over, when other hooks have done their part.
    """

    def __init__(self, period: int, after_train: bool = True):
        self._period, self._eval_after_train = period, after_train

    def _do_eval(self):
        raise NotImplementedError

    def after_step(self):
        if _ends_period(self.trainer, self._period) and not _is_last(self.trainer):
            self._do_eval()

    def after_train(self):
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._do_eval()


class BestCheckpointer(_Evaluating):
    """Saves a checkpoint after those evaluations that improve a metric.

    Args:
        eval_period: that of the `EvalHook`, which must be registered before.
        checkpointer: saves it.
        val_metric: name of the metric in the event storage, e.g. "bbox/AP50".
        mode: "max" or "min".
        file_prefix: name of the checkpoint.
    """

    def __init__(self, eval_period, checkpointer, val_metric, mode="max", file_prefix="model_best"):
        super().__init__(eval_period)
        assert mode in ("max", "min"), f'Mode "{mode}" is unknown; it must be "max" or "min".'
        self._sign = 1 if mode == "max" else -1
        self._checkpointer, self._val_metric = checkpointer, val_metric
        self._file_prefix = file_prefix
        self.best_metric = self.best_iter = None

    def _do_eval(self):
        metric, iteration = self.trainer.storage.latest().get(self._val_metric, (None, None))
        if metric is None:
            logger.warning(f"{self._val_metric} does not seem to be computed: nothing is saved.")
            return
        before = f"{self.best_metric} @ iteration {self.best_iter}"
        better = self.best_metric is None or self._sign * metric > self._sign * self.best_metric
        if better and math.isfinite(metric):
            self._checkpointer.save(self._file_prefix, iteration=iteration)
            self.best_metric, self.best_iter = metric, iteration
            logger.info(f"Saved best model: {self._val_metric} is {metric:0.5f}, was {before}.")
        else:
            logger.info(f"Not saved: {self._val_metric} is {metric:0.5f}, the best was {before}.")


class LRScheduler(HookBase):
    """Steps a schedule every iteration and records the learning rate as ``lr``.

    Args:
        optimizer: the trainer's by default.
        scheduler: a torch scheduler or an fvcore ``ParamScheduler``, which then multiplies the
            optimizer's initial rates; the trainer's by default.
    """

    def __init__(self, optimizer=None, scheduler=None):
        self._optimizer, self._scheduler = optimizer, scheduler

    def before_train(self):
        self._optimizer = self._optimizer or self.trainer.optimizer
        if isinstance(self.scheduler, ParamScheduler):
            max_iter, last_iter = self.trainer.max_iter, self.trainer.iter - 1
            self._scheduler = LRMultiplier(self._optimizer, self.scheduler, max_iter, last_iter)
        self._best_param_group_id = LRScheduler.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer):
        """The group whose rate speaks for all: the largest, else one of the commonest rate."""
        sizes = [len(group["params"]) for group in optimizer.param_groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in optimizer.param_groups]
        return rates.index(max(rates, key=rates.count))

    def after_step(self):
        lr = self._optimizer.param_groups[self._best_param_group_id]["lr"]
        self.trainer.storage.put_scalar("lr", lr, smoothing_hint=False)
        self.scheduler.step()

    @property
    def scheduler(self):
        return self._scheduler or self.trainer.scheduler

    def state_dict(self):
        return self.scheduler.state_dict() if isinstance(self.scheduler, _TorchLRScheduler) else {}

    def load_state_dict(self, state_dict):
        if isinstance(self.scheduler, _TorchLRScheduler):
            logger.info("Loading scheduler from state_dict ...")
            self.scheduler.load_state_dict(state_dict)


class TorchProfiler(HookBase):
    """Runs ``torch.profiler.profile`` in chosen iterations.

    Args:
        enable_predicate: function of the trainer that says whether to profile this iteration.
        output_dir: where traces go.
        activities: as in ``torch.profiler.profile``.
        save_tensorboard: write TensorBoard traces to ``<output_dir>/log``, not Chrome's.
    """

    def __init__(self, enable_predicate, output_dir, *, activities=None, save_tensorboard=True):
        self._enable_predicate, self._output_dir = enable_predicate, output_dir
        self._activities, self._save_tensorboard = activities, save_tensorboard
        self._profiler = None

    def before_step(self):
        if not self._enable_predicate(self.trainer):
            return
        on_trace_ready = None
        if self._save_tensorboard:
            name = f"profiler-tensorboard-iter{self.trainer.iter}"
            on_trace_ready = torch.profiler.tensorboard_trace_handler(
                os.path.join(self._output_dir, "log", name), f"worker{comm.get_rank()}"
            )
        self._profiler = torch.profiler.profile(
            activities=self._activities,
            on_trace_ready=on_trace_ready,
            record_shapes=True,
            profile_memory=True,
            with_stack=True,
            with_flops=True,
        )
        self._profiler.__enter__()

    def after_step(self):
        if self._profiler is None:
            return
        self._profiler.__exit__(None, None, None)
        if not self._save_tensorboard:
            PathManager.mkdirs(self._output_dir)
            name = f"profiler-trace-iter{self.trainer.iter}.json"
            path = PathManager.get_local_path(os.path.join(self._output_dir, name))
            self._profiler.export_chrome_trace(path)
        self._profiler = None


class EvalHook(_Evaluating):
    """Evaluates periodically, and after a training that did not fail.

    Args:
        eval_period: in iterations; 0 for no evaluation during training.
        eval_function: returns a nested dict of numbers, which go into the event storage. All
            processes call it.
        eval_after_train: evaluate after training too.
    """

    def __init__(self, eval_period, eval_function, eval_after_train=True):
        super().__init__(eval_period, eval_after_train)
        self._func = eval_function

    def _do_eval(self):
        results = self._func()
        if results:
            assert isinstance(results, dict), f"Eval function must return a dict. Got {results}."
            flat = flatten_results_dict(results)
            for name, value in flat.items():
                try:
                    float(value)
                except Exception as error:
                    wanted = "[EvalHook] eval_function should return a nested dict of float."
                    raise ValueError(f"{wanted} Got '{name}: {value}' instead.") from error
            self.trainer.storage.put_scalars(**flat, smoothing_hint=False)
        # The processes may need different times.
        comm.synchronize()

    def after_train(self):
        super().after_train()
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
        self._disabled = len(get_bn_modules(model)) == 0
        if self._disabled:
            logger.info("PreciseBN is disabled: the model has no BN layers in training mode.")
        self._period, self._model = period, model
        self._data_loader, self._num_iter = data_loader, num_iter
        self._data_iter = None

    def after_step(self):
        if _ends_period(self.trainer, self._period) or _is_last(self.trainer):
            self.update_stats()

    def update_stats(self):
        """Recompute the statistics now."""
        if self._disabled:
            return
        if self._data_iter is None:
            self._data_iter = iter(self._data_loader)
        # With other batches, so with other statistics every time.
        logger.info(f"Running precise-BN for {self._num_iter} iterations ...")
        with EventStorage():  # what the model records meanwhile is dropped
            update_bn_stats(self._model, self._data_iter, self._num_iter)


class TorchMemoryStats(HookBase):
    """Logs CUDA memory periodically.

    Args:
        period: in iterations.
        max_runs: stop after so many.
    """

    def __init__(self, period=20, max_runs=10):
        self._period, self._max_runs = period, max_runs
        self._runs = 0

    def after_step(self):
        if self._runs > self._max_runs or not torch.cuda.is_available():
            return
        if _ends_period(self.trainer, self._period) or _is_last(self.trainer):
            readings = {
                "max_reserved_mem": torch.cuda.max_memory_reserved(),
                "reserved_mem": torch.cuda.memory_reserved(),
                "max_allocated_mem": torch.cuda.max_memory_allocated(),
                "allocated_mem": torch.cuda.memory_allocated(),
            }
            text = "  ".join(f"{name}: {size / 2**20:.0f}MB" for name, size in readings.items())
            logger.info(f" iter: {self.trainer.iter}  {text}")
            self._runs += 1
            if self._runs == self._max_runs:
                logger.info("\n" + torch.cuda.memory_summary())
            torch.cuda.reset_peak_memory_stats()
