"""Parameter groups, and what a yacs config says about optimizer, clipping and schedule."""

import functools
import itertools
import logging
from collections import defaultdict
from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    StepWithFixedGammaParamScheduler,
)
from torch import nn

from detectron2.config import CfgNode

from .lr_scheduler import LRMultiplier, LRScheduler, WarmupParamScheduler

_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)
_MEMBERS = ("params", "param_names")


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
    optimizer: type[torch.optim.Optimizer],
    *,
    per_param_clipper: Callable | None = None,
    global_clipper: Callable | None = None,
) -> type[torch.optim.Optimizer]:
    """Subclass of an optimizer type that clips before every step."""
    assert per_param_clipper is None or global_clipper is None, (
        "Not allowed to use both per-parameter clipping and global clipping"
    )

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
    is_instance = isinstance(optimizer, torch.optim.Optimizer)
    kind = type(optimizer) if is_instance else optimizer
    assert issubclass(kind, torch.optim.Optimizer), optimizer
    clipping = _generate_optimizer_class_with_gradient_clipping(
        kind, per_param_clipper=_create_gradient_clipper(cfg.SOLVER.CLIP_GRADIENTS)
    )
    if not is_instance:
        return clipping
    optimizer.__class__ = clipping
    return optimizer


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


def _bias_overrides(base_lr, bias_lr_factor, weight_decay_bias) -> dict[str, float]:
    found = {}
    if bias_lr_factor is not None and bias_lr_factor != 1.0:
        if base_lr is None:
            raise ValueError("bias_lr_factor requires base_lr")
        found["lr"] = base_lr * bias_lr_factor
    if weight_decay_bias is not None:
        found["weight_decay"] = weight_decay_bias
    return found


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
    overrides = dict(overrides or {})
    bias = _bias_overrides(base_lr, bias_lr_factor, weight_decay_bias)
    if bias:
        if "bias" in overrides:
            raise ValueError("Conflicting overrides for 'bias'")
        overrides["bias"] = bias
    if lr_factor_func is not None and base_lr is None:
        raise ValueError("lr_factor_func requires base_lr")
    defaults = {"lr": base_lr, "weight_decay": weight_decay}
    defaults = {key: value for key, value in defaults.items() if value is not None}

    groups: list[dict[str, Any]] = []
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, param in module.named_parameters(recurse=False):
            if not param.requires_grad or param in seen:
                continue
            seen.add(param)
            settings = dict(defaults)
            if weight_decay_norm is not None and isinstance(module, _NORMS):
                settings["weight_decay"] = weight_decay_norm
            if lr_factor_func is not None:
                settings["lr"] *= lr_factor_func(f"{module_name}.{name}")
            settings.update(overrides.get(name, {}))
            groups.append({"params": [param], **settings})
    return reduce_param_groups(groups)


def _expand_param_groups(params: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One group per parameter; what a later group says about it wins."""
    single: dict[Any, dict[str, Any]] = defaultdict(dict)
    for group in params:
        assert "params" in group
        settings = {key: value for key, value in group.items() if key not in _MEMBERS}
        names = group.get("param_names")
        for i, param in enumerate(group["params"]):
            if names is not None:
                single[param]["param_names"] = [names[i]]
            single[param].update(params=[param], **settings)
    return list(single.values())


def reduce_param_groups(params: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge the groups that have equal settings, which makes ``foreach`` optimizers faster."""
    merged: dict[tuple, dict[str, Any]] = {}
    for group in _expand_param_groups(params):
        settings = {key: value for key, value in group.items() if key not in _MEMBERS}
        target = merged.setdefault(tuple(settings.items()), {**settings, "params": []})
        for key in _MEMBERS:
            if key in group:
                target.setdefault(key, []).extend(group[key])
    return list(merged.values())


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """The schedule that ``cfg.SOLVER`` describes."""
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps = [step for step in solver.STEPS if step <= solver.MAX_ITER]
        if len(steps) != len(solver.STEPS):
            logging.getLogger(__name__).warning(
                "SOLVER.STEPS contains values larger than SOLVER.MAX_ITER. "
                "These values will be ignored."
            )
        schedule = MultiStepParamScheduler(
            values=[solver.GAMMA**k for k in range(len(steps) + 1)],
            milestones=steps,
            num_updates=solver.MAX_ITER,
        )
    elif solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        end_value = solver.BASE_LR_END / solver.BASE_LR
        assert 0.0 <= end_value <= 1.0, end_value
        schedule = CosineParamScheduler(1, end_value)
    elif solver.LR_SCHEDULER_NAME == "WarmupStepWithFixedGammaLR":
        schedule = StepWithFixedGammaParamScheduler(
            base_value=1.0,
            gamma=solver.GAMMA,
            num_decays=solver.NUM_DECAYS,
            num_updates=solver.MAX_ITER,
        )
    else:
        raise ValueError(f"Unknown LR scheduler: {solver.LR_SCHEDULER_NAME}")
    schedule = WarmupParamScheduler(
        schedule,
        solver.WARMUP_FACTOR,
        min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0),
        solver.WARMUP_METHOD,
        solver.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=solver.MAX_ITER)
