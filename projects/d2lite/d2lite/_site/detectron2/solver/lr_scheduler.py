"""Learning-rate schedules: fvcore's parameter schedules with warm-up, applied to an optimizer."""

import bisect
import logging
import math

import torch
from fvcore.common import param_scheduler as schedules
from torch.optim.lr_scheduler import LRScheduler

logger = logging.getLogger(__name__)


class WarmupParamScheduler(schedules.CompositeParamScheduler):
    """A schedule that starts with a warm-up.

    Args:
        scheduler: an fvcore ``ParamScheduler``, which follows the warm-up.
        warmup_factor: the warm-up starts at this times the schedule's first value.
        warmup_length: fraction of the training, 0..1.
        warmup_method: "linear" or "constant".
        rescale_interval: start ``scheduler`` from 0 after the warm-up; it runs underneath else.
    """

    def __init__(
        self,
        scheduler: schedules.ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ):
        start = warmup_factor * scheduler(0.0)
        end = scheduler(0.0 if rescale_interval else warmup_length)
        if warmup_method == "linear":
            warmup = schedules.LinearParamScheduler(start, end)
        elif warmup_method == "constant":
            warmup = schedules.ConstantParamScheduler(start)
        else:
            raise ValueError(f"Unknown warmup method: {warmup_method}")
        super().__init__(
            [warmup, scheduler],
            interval_scaling=["rescaled", "rescaled" if rescale_interval else "fixed"],
            lengths=[warmup_length, 1 - warmup_length],
        )


class LRMultiplier(LRScheduler):
    """Multiplies every group's initial rate by a schedule, evaluated at iteration / max_iter."""

    def __init__(
        self, optimizer, multiplier: schedules.ParamScheduler, max_iter: int, last_iter: int = -1
    ):
        if not isinstance(multiplier, schedules.ParamScheduler):
            raise ValueError(f"multiplier must be a ParamScheduler of fvcore, got {multiplier}")
        self._multiplier, self._max_iter = multiplier, max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self):
        # fvcore's schedules have no state of their own.
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[float]:
        factor = self._multiplier(self.last_epoch / self._max_iter)
        return [base_lr * factor for base_lr in self.base_lrs]


class _WarmupLR(LRScheduler):
    """Base of the two old schedules: initial rate x ``_warmup()`` x ``_decay()``."""

    def __init__(self, optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch):
        logger.warning(f"{type(self).__name__} is deprecated: use LRMultiplier instead")
        self.warmup_factor, self.warmup_iters = warmup_factor, warmup_iters
        self.warmup_method = warmup_method
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [base_lr * self._warmup() * self._decay() for base_lr in self.base_lrs]

    def _warmup(self) -> float:
        if self.last_epoch >= self.warmup_iters:
            return 1.0
        if self.warmup_method not in ("constant", "linear"):
            raise ValueError(f"Unknown warmup method: {self.warmup_method}")
        done = self.last_epoch / self.warmup_iters if self.warmup_method == "linear" else 0.0
        return self.warmup_factor * (1 - done) + done


class WarmupMultiStepLR(_WarmupLR):
    """Warm-up, then a drop by ``gamma`` at every milestone (iterations)."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        milestones: list[int],
        gamma: float = 0.1,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ):
        if list(milestones) != sorted(milestones):
            raise ValueError(f"Milestones should be a list of increasing integers: {milestones}")
        self.milestones, self.gamma = milestones, gamma
        super().__init__(optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch)

    def _decay(self) -> float:
        return self.gamma ** bisect.bisect_right(self.milestones, self.last_epoch)


class WarmupCosineLR(_WarmupLR):
    """Warm-up on top of half a cosine from 1 to 0 over ``max_iters``."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        max_iters: int,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ):
        self.max_iters = max_iters
        super().__init__(optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch)

    def _decay(self) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * self.last_epoch / self.max_iters))
