"""What a config says to an optimizer: rates of parts of a model, and plain settings."""

from collections.abc import Mapping

import torch
from omegaconf import ListConfig, OmegaConf


class RateFactors:
    """Factor of the learning rate of a parameter, by the part of the model that it belongs to.

    For ``lr_factor_func`` of Detectron2's ``get_default_optimizer_params``.

    Args:
        factors: name of a part (a prefix of parameter names, such as ``"roi_heads.box_head"``) to
            its factor; the longest prefix that fits wins, everything else gets 1.
    """

    def __init__(self, factors: Mapping[str, float]):
        self.factors = dict(factors)

    def __call__(self, name: str) -> float:
        """The factor of the parameter called ``name``."""
        fitting = [p for p in self.factors if name == p or name.startswith(f"{p}.")]
        return self.factors[max(fitting, key=len)] if fitting else 1.0


def make_settings_plain(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Turn the config's lists among the settings (such as ``betas``) into tuples, in place.

    They would be pickled into every checkpoint, which could then not be read safely.
    """
    for settings in (optimizer.defaults, *optimizer.param_groups):
        for name, value in settings.items():
            if isinstance(value, ListConfig):
                settings[name] = tuple(OmegaConf.to_container(value))
    return optimizer
