"""What a config says to an optimizer: groups of parameters, warm-up, and plain settings."""

from collections.abc import Mapping

import torch
from detectron2.solver.build import reduce_param_groups
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import ListConfig, OmegaConf
from torch import nn

from lvt_d2.errors import ConfigError


def get_params_by_name(
    model: nn.Module, base_lr: float, rules: Mapping[str, Mapping[str, float]]
) -> list[dict]:
    """Parameter groups by what occurs in the parameters' names.

    Detectron2's ``get_default_optimizer_params`` goes by the kind of layer; this one can spare the
    norms of the backbone and decay those of a head.

    Args:
        model: whose trainable parameters to group, each once.
        base_lr: the optimizer's rate.
        rules: part of a name to ``lr_factor`` and ``weight_decay`` of the parameters in whose names
            it occurs. If there are several, the longest counts, alone.

    Raises:
        ConfigError: a rule that fits no name, or another setting than these two.
    """
    unused = set(rules)
    groups = []
    for name, parameter in model.named_parameters():
        fitting = [part for part in rules if part in name]
        unused -= set(fitting)
        if not parameter.requires_grad:
            continue
        settings = dict(rules[max(fitting, key=len)]) if fitting else {}
        group = {"params": [parameter], "lr": base_lr * settings.pop("lr_factor", 1.0)}
        if "weight_decay" in settings:
            group["weight_decay"] = settings.pop("weight_decay")
        if settings:
            raise ConfigError(
                f"The optimizer's rule for {max(fitting, key=len)!r} sets {', '.join(settings)}; "
                "expected lr_factor and weight_decay"
            )
        groups.append(group)
    if unused:
        parts = ", ".join(name for name, _ in model.named_children())
        raise ConfigError(
            f"The optimizer's rules name {', '.join(sorted(unused))}, which occurs in the name of "
            f"no parameter; the model's parts are {parts}"
        )
    return reduce_param_groups(groups)


class DecayedWarmup(ParamScheduler):
    """A schedule times a linear warm-up: the rate is the decayed one from the first iteration on.

    Detectron2's ``WarmupParamScheduler`` rises on a straight line to where the schedule is after
    the warm-up; the published SegFormer training multiplies.

    Args:
        scheduler: runs from the first iteration, under the warm-up.
        warmup_factor: the warm-up starts at this.
        warmup_length: fraction of the training, 0..1.
    """

    def __init__(self, scheduler: ParamScheduler, warmup_factor: float, warmup_length: float):
        self.scheduler = scheduler
        self.warmup_factor = warmup_factor
        self.warmup_length = warmup_length

    def __call__(self, where: float) -> float:
        """The multiplier at ``where``, a fraction of the training."""
        value = self.scheduler(where)
        if where >= self.warmup_length:
            return value
        done = where / self.warmup_length
        return value * (done + (1 - done) * self.warmup_factor)


def make_settings_plain(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Turn the config's lists among the settings (such as ``betas``) into tuples, in place.

    They would be pickled into every checkpoint, which could then not be read safely.
    """
    for settings in (optimizer.defaults, *optimizer.param_groups):
        for name, value in settings.items():
            if isinstance(value, ListConfig):
                settings[name] = tuple(OmegaConf.to_container(value))
    return optimizer
