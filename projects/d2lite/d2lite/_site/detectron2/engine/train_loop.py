"""Training loops: one that knows only hooks, and the common ones around it."""

import logging
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch.nn.parallel import DataParallel

import detectron2.utils.comm as comm
from detectron2.utils.events import EventStorage, get_event_storage

__all__ = ["AMPTrainer", "HookBase", "SimpleTrainer", "TrainerBase"]

logger = logging.getLogger(__name__)


class HookBase:
    """What a trainer calls around its steps; ``self.trainer`` is set when it is registered."""

    trainer: "TrainerBase" = None

    def before_train(self):
        """Before the first iteration, with the event storage open."""

    def after_train(self):
        """After the last iteration, and after an error too."""

    def before_step(self):
        """At the start of every iteration."""

    def after_backward(self):
        """In every iteration, when the gradients are there and the update is not done yet."""

    def after_step(self):
        """At the end of every iteration."""

    def state_dict(self):
        """What a checkpoint keeps; a hook with any also has ``load_state_dict``."""
        return {}


class TrainerBase:
    """Iterates ``run_step`` between hooks.

    Attributes:
        iter: the current iteration.
        start_iter: the iteration that training starts with, 0 if not resumed.
        max_iter: the iteration at which training ends (excluded).
        storage: the EventStorage that is open while training.
    """

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = self.start_iter = 0

    def register_hooks(self, hooks: list[HookBase | None]) -> None:
        """Append hooks, in their order of execution; None is skipped."""
        hooks = [hook for hook in hooks if hook is not None]
        for hook in hooks:
            assert isinstance(hook, HookBase), hook
            # A hook that owned its trainer would make a cycle that keeps the model alive.
            hook.trainer = weakref.proxy(self)
        self._hooks.extend(hooks)

    def train(self, start_iter: int, max_iter: int):
        """Run iterations ``start_iter .. max_iter - 1``; ``after_train`` runs even on errors."""
        logger.info(f"Starting training from iteration {start_iter}")
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                self.iter += 1  # equals max_iter: tells `after_train` that nothing failed
            except Exception:
                logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()

    def before_train(self):
        for hook in self._hooks:
            hook.before_train()

    def after_train(self):
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self):
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self):
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self):
        for hook in self._hooks:
            hook.after_step()

    def run_step(self):
        raise NotImplementedError

    def state_dict(self):
        """Iteration and, by class name, what the hooks want kept (the first of each class)."""
        kept: dict[str, dict] = {}
        for hook in self._hooks:
            if hook_state := hook.state_dict():
                kept.setdefault(type(hook).__qualname__, hook_state)
        return {"iteration": self.iter, **({"hooks": kept} if kept else {})}

    def load_state_dict(self, state_dict):
        """Inverse of `state_dict`; the state of a hook that is not registered is ignored."""
        self.iter = state_dict["iteration"]
        for name, hook_state in state_dict.get("hooks", {}).items():
            hook = next((h for h in self._hooks if type(h).__qualname__ == name), None)
            if hook is None:
                logger.warning(f"Cannot find the hook '{name}', its state_dict is ignored.")
            else:
                hook.load_state_dict(hook_state)


class SimpleTrainer(TrainerBase):
    """One optimizer, one loader, one model that returns a loss or a dict of losses.

    Args:
        model: called with the loader's batch; put into training mode here.
        data_loader: an iterable that does not end.
        optimizer: a torch optimizer.
        gather_metric_period: losses are gathered from all processes every so many iterations.
        zero_grad_before_forward: zero the gradients before the forward pass, not after it.
        async_write_metrics: gather and write the losses in another thread.
    """

    def __init__(
        self,
        model,
        data_loader,
        optimizer,
        gather_metric_period=1,
        zero_grad_before_forward=False,
        async_write_metrics=False,
    ):
        super().__init__()
        model.train()
        self.model, self.data_loader, self.optimizer = model, data_loader, optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self.async_write_metrics = async_write_metrics
        self._data_loader_iter_obj = None
        # One worker keeps the metrics in the order of their iterations.
        self.concurrent_executor = ThreadPoolExecutor(max_workers=1)

    def run_step(self):
        assert self.model.training, f"[{type(self).__name__}] model was changed to eval mode!"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        loss_dict = self._forward(data)
        if isinstance(loss_dict, torch.Tensor):
            loss_dict = {"total_loss": loss_dict}
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        self._backward(sum(loss_dict.values()))
        self.after_backward()
        if self.async_write_metrics:
            # The iteration is fixed now: the loop may be further when the thread gets to it.
            self.concurrent_executor.submit(
                self._write_metrics, loss_dict, data_time, iter=self.iter
            )
        else:
            self._write_metrics(loss_dict, data_time)
        self._update()

    def _forward(self, data):
        return self.model(data)

    def _backward(self, loss):
        loss.backward()

    def _update(self):
        self.optimizer.step()

    @property
    def _data_loader_iter(self):
        if self._data_loader_iter_obj is None:
            self._data_loader_iter_obj = iter(self.data_loader)
        return self._data_loader_iter_obj

    def reset_data_loader(self, data_loader_builder):
        """Replace the loader by what ``data_loader_builder()`` returns; the old one goes first."""
        del self.data_loader
        self._data_loader_iter_obj = None
        self.data_loader = data_loader_builder()

    def _write_metrics(self, loss_dict, data_time, prefix="", iter=None):
        step = self.iter if iter is None else iter
        try:
            if (step + 1) % self.gather_metric_period == 0:
                SimpleTrainer.write_metrics(loss_dict, data_time, step, prefix)
        except Exception:
            logger.exception("Exception in writing metrics: ")
            raise

    @staticmethod
    def write_metrics(loss_dict, data_time, cur_iter, prefix=""):
        """Put losses (mean over processes) and data time (maximum) into the current storage.

        Raises:
            FloatingPointError: on the main process, if the sum of the losses is not finite.
        """
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=cur_iter)
        mine = {name: loss.detach().cpu().item() for name, loss in loss_dict.items()}
        gathered = comm.gather((mine, data_time))
        if not comm.is_main_process():
            return
        storage.put_scalar("data_time", max(seconds for _, seconds in gathered), cur_iter=cur_iter)
        means = {name: np.mean([losses[name] for losses, _ in gathered]) for name in gathered[0][0]}
        total = sum(means.values())
        if not np.isfinite(total):
            raise FloatingPointError(
                f"Loss became infinite or NaN at iteration={cur_iter}!\nloss_dict = {means}"
            )
        storage.put_scalar(f"{prefix}total_loss", total, cur_iter=cur_iter)
        if len(means) > 1:
            storage.put_scalars(cur_iter=cur_iter, **means)

    def state_dict(self):
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])

    def after_train(self):
        super().after_train()
        self.concurrent_executor.shutdown(wait=True)


class AMPTrainer(SimpleTrainer):
    """`SimpleTrainer` with CUDA's automatic mixed precision.

    Args:
        model, data_loader, optimizer, gather_metric_period, zero_grad_before_forward: as there.
        grad_scaler: a ``GradScaler``, a new one by default.
        precision: dtype of the autocast regions.
        log_grad_scaler: record the scale as ``[metric]grad_scaler``.
        async_write_metrics: as there.
    """

    def __init__(
        self,
        model,
        data_loader,
        optimizer,
        gather_metric_period=1,
        zero_grad_before_forward=False,
        grad_scaler=None,
        precision: torch.dtype = torch.float16,
        log_grad_scaler: bool = False,
        async_write_metrics=False,
    ):
        unsupported = "AMPTrainer does not support single-process multi-device training!"
        assert not isinstance(model, DataParallel), unsupported
        super().__init__(model, data_loader, optimizer, gather_metric_period)
        self.zero_grad_before_forward = zero_grad_before_forward
        self.async_write_metrics = async_write_metrics
        self.grad_scaler = torch.amp.GradScaler("cuda") if grad_scaler is None else grad_scaler
        self.precision, self.log_grad_scaler = precision, log_grad_scaler

    def run_step(self):
        assert torch.cuda.is_available(), "[AMPTrainer] CUDA is required for AMP training!"
        super().run_step()

    def _forward(self, data):
        with torch.autocast("cuda", dtype=self.precision):
            return self.model(data)

    def _backward(self, loss):
        self.grad_scaler.scale(loss).backward()
        if self.log_grad_scaler:
            get_event_storage().put_scalar("[metric]grad_scaler", self.grad_scaler.get_scale())

    def _update(self):
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self):
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
