"""Learning rates of parts of a model, for ``lr_factor_func`` of Detectron2's parameter groups."""

from collections.abc import Mapping


class RateFactors:
    """Factor of the learning rate of a parameter, by the part of the model that it belongs to.

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
