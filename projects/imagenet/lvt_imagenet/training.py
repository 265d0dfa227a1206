"""The training loop: updates of an epoch, and the state from which it goes on exactly.

Nothing random is carried from one update to the next: the generators are seeded before each batch
by seed, epoch, batch and process. So a state needs no generators, and is complete at any update.
"""

import argparse
import itertools
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from timm.models import model_parameters
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3, dispatch_clip_grad
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import lvt_d2
from lvt_d2.errors import CheckpointError, ConfigError, DatasetError, NonFiniteLossError
from lvt_imagenet.data import some
from lvt_imagenet.distributed import is_main, rank, total, world_size
from lvt_imagenet.evaluation import AMP
from lvt_imagenet.loaders import Loader
from lvt_imagenet.objective import create_objective, seed_mixing
from lvt_imagenet.records import Progress
from lvt_imagenet.samples import seed_all, seed_of


def create_optimizer(settings: argparse.Namespace, model: nn.Module) -> torch.optim.Optimizer:
    """Timm's optimizer; biases, norms and what the model names have no weight decay.

    Raises:
        ConfigError: timm has none of this name, or it does not take these arguments.
    """
    arguments = {"betas": settings.opt_betas, "eps": settings.opt_eps}
    try:
        return create_optimizer_v2(
            model,
            opt=settings.opt,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            layer_decay=settings.layer_decay,
            **{name: value for name, value in arguments.items() if value is not None},
        )
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or "timm has none of this name"
        raise ConfigError(
            f"The optimizer {settings.opt!r} can't be made: {reason}; look at opt, opt_betas and "
            "opt_eps (none leaves an argument out)"
        ) from error


def create_schedule(
    settings: argparse.Namespace, optimizer: torch.optim.Optimizer, updates: int
) -> tuple[Scheduler | None, int]:
    """Timm's schedule of the rate, and the epochs in all.

    Args:
        settings: see `lvt_imagenet.options`.
        optimizer: whose rate it sets.
        updates: of an epoch.
    """
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched=settings.sched,
        num_epochs=settings.epochs,
        decay_epochs=settings.decay_epochs,
        decay_rate=settings.decay_rate,
        cooldown_epochs=settings.cooldown_epochs,
        warmup_epochs=settings.warmup_epochs,
        warmup_lr=settings.warmup_lr,
        min_lr=settings.min_lr,
        step_on_epochs=not settings.sched_on_updates,
        updates_per_epoch=updates,
    )
    return schedule, settings.epochs + settings.cooldown_epochs


class Trainer:
    """Trains a model epoch by epoch.

    Args:
        model: on its device; it is wrapped for several processes and compiled here.
        loader: of this process's batches.
        settings: see `lvt_imagenet.options`.
        classes: names in order, for checkpoints.

    Attributes:
        model: the bare model.
        ema: the average of its weights, or None.
        epoch: that comes next, or runs.
        epochs: of the whole training.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Loader,
        settings: argparse.Namespace,
        classes: Sequence[str],
    ):
        self.model = model
        self.loader = loader
        self.settings = settings
        self.classes = list(classes)
        self.device = loader.device
        self.objective = create_objective(settings, model.num_classes)
        self.optimizer = create_optimizer(settings, model)
        self.updates = loader.batches // settings.grad_accum_steps
        self.schedule, self.epochs = create_schedule(settings, self.optimizer, self.updates)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.amp == "float16")
        self.ema = None
        if settings.ema:
            self.ema = ModelEmaV3(model, settings.ema_decay, use_warmup=settings.ema_warmup)
        self.epoch = self.update = 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self._wrapped = self._wrap()

    def train_epoch(self, save=None) -> dict[str, float]:
        """Run the epoch, or what is left of it.

        Args:
            save: called every ``checkpoint_updates`` updates, if that is not 0.

        Returns:
            ``train_loss``, the mean of the epoch; ``lr`` of its last update;
            ``images_per_second`` of all processes.

        Raises:
            NonFiniteLossError: the loss is NaN or infinite, on all processes alike.
        """
        settings, accumulate = self.settings, self.settings.grad_accum_steps
        self._wrapped.train()
        self._set_rate()
        self.loader.start(settings.seed, self.epoch, self.update * accumulate)
        first, begin = self.update, time.perf_counter()
        batches = iter(self.loader)
        with Progress(
            self.epoch, self.epochs, self.updates, first, settings.log_interval, is_main()
        ) as progress:
            while self.update < self.updates:
                group = itertools.islice(batches, accumulate)
                self._update(group)
                self.update += 1
                self._set_rate()
                due = progress.is_due(self.update)
                progress.step(self.update, self._numbers() if due else None)
                every = settings.checkpoint_updates
                if save and every and self.update % every == 0 and self.update < self.updates:
                    self._numbers()  # refuses to save what has diverged
                    save()
        images = (self.update - first) * accumulate * settings.batch_size * world_size()
        numbers = self._numbers()
        self.epoch, self.update = self.epoch + 1, 0
        self.loss_sum.zero_()
        seconds = time.perf_counter() - begin
        return {**numbers, "images_per_second": images / seconds}

    def state(self) -> dict[str, Any]:
        """All that `load_state` needs to go on exactly; the same call on all processes."""
        loss_sum = total(self.loss_sum).item()
        return {
            "model": self.model.state_dict(),
            **({"ema": self.ema.state_dict()} if self.ema is not None else {}),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": {"epoch": self.epoch, "update": self.update, "loss_sum": loss_sum},
            "world_size": world_size(),
            **self.description(),
        }

    def description(self) -> dict[str, Any]:
        """What a checkpoint says of the model."""
        return {
            "classes": self.classes,
            "num_classes": self.model.num_classes,
            "settings": vars(self.settings).copy(),
            "lvt_d2": {"kind": "classifier", "version": lvt_d2.__version__},
        }

    def load_state(self, state: dict[str, Any], path: str) -> None:
        """Go on where `state` was taken.

        Raises:
            CheckpointError: it is another model's, of other classes, or within an epoch of other
                batches.
        """
        self._check_state(state, path)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            averaged = {f"module.{name}": value for name, value in state["model"].items()}
            self.ema.load_state_dict(state.get("ema", averaged))
        progress = state["progress"]
        self.epoch, self.update = progress["epoch"], progress["update"]
        self.loss_sum.fill_(progress["loss_sum"] if is_main() else 0.0)

    def _check_state(self, state: dict[str, Any], path: str) -> None:
        before = state["settings"]
        if state["classes"] != self.classes or state["num_classes"] != self.model.num_classes:
            raise CheckpointError(
                f"{path} was trained on {state['num_classes']} classes "
                f"({some(state['classes'])}), but the data set has {self.model.num_classes} "
                f"({some(self.classes)}). Resume with the same data set and class map, or start "
                "from its weights: --init-checkpoint, and another --output"
            )
        own = {name: value.shape for name, value in self.model.state_dict().items()}
        if own != {name: value.shape for name, value in state["model"].items()}:
            raise CheckpointError(
                f"{path} is of the model {before['model']!r}, another one than "
                f"{self.settings.model!r} with these settings; resume with those of the file"
            )
        batches = ("batch_size", "grad_accum_steps")
        same = all(before[name] == getattr(self.settings, name) for name in batches)
        if state["progress"]["update"] and not (same and state["world_size"] == world_size()):
            raise CheckpointError(
                f"{path} was saved within an epoch of {state['world_size']} processes x "
                f"{before['grad_accum_steps']} x {before['batch_size']} images, which others can't "
                "go on with; resume with the same numbers"
            )

    def _wrap(self) -> nn.Module:
        wrapped = self.model
        if world_size() > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            wrapped = DistributedDataParallel(wrapped, device_ids=ids)
        return torch.compile(wrapped) if self.settings.compile else wrapped

    def _set_rate(self) -> None:
        if self.schedule is not None:
            self.schedule.step(self.epoch)
            self.schedule.step_update(self.epoch * self.updates + self.update)

    def _update(self, batches) -> None:
        """One update of the weights from the batches of its group."""
        settings, count = self.settings, self.settings.grad_accum_steps
        number = -1
        for number, (images, targets, _) in enumerate(batches):
            seed = seed_of(settings.seed, self.epoch, self.update, number, rank())
            seed_all(seed, self.device)
            seed_mixing(self.model, seed)
            last = number == count - 1
            with nullcontext() if last or world_size() == 1 else self._no_sync():
                loss = self._loss(images, targets) / count
                self.scaler.scale(loss).backward()
            self.loss_sum += loss.detach()
        if number < count - 1:
            raise DatasetError(
                f"The data ended in epoch {self.epoch + 1}, in update {self.update + 1} of "
                f"{self.updates}; the number of its images is wrong (--num-samples, or after the | "
                "of --train-split)"
            )
        if settings.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            parameters = model_parameters(self.model, exclude_head="agc" in settings.clip_mode)
            dispatch_clip_grad(parameters, settings.clip_grad, mode=settings.clip_mode)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.model, step=self.epoch * self.updates + self.update + 1)

    def _no_sync(self):
        return getattr(self._wrapped, "_orig_mod", self._wrapped).no_sync()

    def _loss(self, images: Tensor, targets: Any) -> Tensor:
        images, targets = self.objective.prepare(images, targets)
        dtype = AMP[self.settings.amp]
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            return self.objective.loss(self._wrapped(images), targets)

    def _numbers(self) -> dict[str, float]:
        """Mean loss of the epoch so far over all processes, and the rate."""
        loss = total(self.loss_sum).item() / (self.update * world_size())
        lr = max(group["lr"] for group in self.optimizer.param_groups)
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"The loss became {loss} in epoch {self.epoch + 1}, before update {self.update}, "
                f"at the rate {lr:.3g}. The last checkpoint is from before. Try a lower --lr, a "
                "longer --warmup-epochs, --clip-grad 1, or --amp bfloat16 in place of float16; "
                "--resume goes on from that checkpoint"
            )
        return {"train_loss": loss, "lr": lr}
