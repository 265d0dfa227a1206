"""Parameter groups, and what a yacs config says about optimizer, clipping and schedule."""

import functools
import itertools
import logging
from collections import defaultdict
from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
from fvcore.common import param_scheduler as schedules
from torch import nn

from detectron2.config import CfgNode

from .lr_scheduler import LRMultiplier, LRScheduler, WarmupParamScheduler

logger = logging.getLogger(__name__)

# The first is the base of all batch and instance norms.
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)


class GradientClipType(Enum):
    """``SOLVER.CLIP_GRADIENTS.CLIP_TYPE``."""

    VALUE = "value"
    NORM = "norm"


def _create_gradient_clipper(cfg: CfgNode) -> Callable:
    limit, norm_type = cfg.CLIP_VALUE, cfg.NORM_TYPE
    if GradientClipType(cfg.CLIP_TYPE) is GradientClipType.VALUE:
        return functools.partial(nn.utils.clip_grad_value_, clip_value=limit)
    return functools.partial(nn.utils.clip_grad_norm_, max_norm=limit, norm_type=norm_type)


def _generate_optimizer_class_with_gradient_clipping(
    optimizer: type[torch.optim.Optimizer], *, per_param_clipper=None, global_clipper=None
) -> type[torch.optim.Optimizer]:
    """Subclass of an optimizer type that clips before every step, in one of the two ways."""
    assert per_param_clipper is None or global_clipper is None, "clip in one way"

    def step(self, closure=None):
        params = itertools.chain.from_iterable(group["params"] for group in self.param_groups)
        if per_param_clipper is None:
            global_clipper(params)
        else:
            for param in params:
                per_param_clipper(param)
        return optimizer.step(self, closure)

    return type(optimizer.__name__ + "WithGradientClip", (optimizer,), {"step": step})


def maybe_add_gradient_clipping(cfg: CfgNode, optimizer):
    """Make an optimizer, or a type of optimizers, clip as ``SOLVER.CLIP_GRADIENTS`` says.

    Returns:
        The argument if clipping is disabled; else the same instance with its class changed, or a
        new type if a type was given.
    """
    if not cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
        return optimizer
    if isinstance(optimizer, torch.optim.Optimizer):
        optimizer.__class__ = maybe_add_gradient_clipping(cfg, type(optimizer))
        return optimizer
    assert issubclass(optimizer, torch.optim.Optimizer), optimizer
    clipper = _create_gradient_clipper(cfg.SOLVER.CLIP_GRADIENTS)
    return _generate_optimizer_class_with_gradient_clipping(optimizer, per_param_clipper=clipper)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD as ``cfg.SOLVER`` describes it."""
    solver = cfg.SOLVER
    params = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    optimizer = torch.optim.SGD(
        params,
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
        foreach=True,
    )
    return maybe_add_gradient_clipping(cfg, optimizer)


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups of all trainable parameters, each parameter once.

    Args:
        model: whose parameters to group.
        base_lr: rate of every group; the optimizer's default if None.
        weight_decay: of every group; the optimizer's default if None.
        weight_decay_norm: of the parameters of normalisation layers instead.
        bias_lr_factor: multiplier of the rate of parameters called ``bias``.
        weight_decay_bias: weight decay of parameters called ``bias``.
        lr_factor_func: parameter name -> multiplier of ``base_lr``.
        overrides: name of a parameter in its module -> settings; they win over all others.

    Raises:
        ValueError: a factor without ``base_lr``, or two settings for ``bias``.
    """
    scales_bias = bias_lr_factor is not None and bias_lr_factor != 1.0
    for name, given in (("bias_lr_factor", scales_bias), ("lr_factor_func", lr_factor_func)):
        if given and base_lr is None:
            raise ValueError(f"{name} requires base_lr")
    bias_lr = base_lr * bias_lr_factor if scales_bias else None
    bias = _given(lr=bias_lr, weight_decay=weight_decay_bias)
    overrides = dict(overrides or {})
    if bias and "bias" in overrides:
        raise ValueError("Conflicting overrides for 'bias'")
    overrides.setdefault("bias", bias)

    groups: list[dict[str, Any]] = []
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, param in module.named_parameters(recurse=False):
            if not param.requires_grad or param in seen:
                continue
            seen.add(param)
            settings = _given(lr=base_lr, weight_decay=weight_decay)
            if isinstance(module, _NORMS):
                settings |= _given(weight_decay=weight_decay_norm)
            if lr_factor_func is not None:
                settings["lr"] *= lr_factor_func(f"{module_name}.{name}")
            groups.append({"params": [param], **settings, **overrides.get(name, {})})
    return reduce_param_groups(groups)


def _given(**settings) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def reduce_param_groups(params: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge the groups that have equal settings, which makes ``foreach`` optimizers faster.

    A parameter in several groups gets the settings of all; what a later one says wins.
    """
    settings_of: dict[nn.Parameter, dict[str, Any]] = defaultdict(dict)
    name_of: dict[nn.Parameter, str] = {}
    for group in params:
        settings = dict(group)
        members = settings.pop("params")
        name_of.update(zip(members, settings.pop("param_names", ()), strict=False))
        for param in members:
            settings_of[param].update(settings)

    merged: dict[tuple, dict[str, Any]] = {}
    for param, settings in settings_of.items():
        target = merged.setdefault(tuple(settings.items()), {"params": [], **settings})
        target["params"].append(param)
        if param in name_of:
            target.setdefault("param_names", []).append(name_of[param])
    return list(merged.values())


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """The schedule that ``cfg.SOLVER`` describes."""
    solver, max_iter = cfg.SOLVER, cfg.SOLVER.MAX_ITER
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps = [step for step in solver.STEPS if step <= max_iter]
        if len(steps) != len(solver.STEPS):
            logger.warning("SOLVER.STEPS contains values larger than SOLVER.MAX_ITER: ignored.")
        values = [solver.GAMMA**count for count in range(len(steps) + 1)]
        schedule = schedules.MultiStepParamScheduler(values, milestones=steps, num_updates=max_iter)
    elif solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        end_value = solver.BASE_LR_END / solver.BASE_LR
        assert 0.0 <= end_value <= 1.0, end_value
        schedule = schedules.CosineParamScheduler(1, end_value)
    elif solver.LR_SCHEDULER_NAME == "WarmupStepWithFixedGammaLR":
        schedule = schedules.StepWithFixedGammaParamScheduler(
            base_value=1.0, gamma=solver.GAMMA, num_decays=solver.NUM_DECAYS, num_updates=max_iter
        )
    else:
        raise ValueError(f"Unknown LR scheduler: {solver.LR_SCHEDULER_NAME}")
    length = min(solver.WARMUP_ITERS / max_iter, 1.0)
    schedule = WarmupParamScheduler(
        schedule, solver.WARMUP_FACTOR, length, solver.WARMUP_METHOD, solver.RESCALE_INTERVAL
    )
    return LRMultiplier(optimizer, schedule, max_iter)
