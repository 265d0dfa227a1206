"""Norms in the form that Detectron2's layers take them."""

from collections.abc import Callable
from functools import partial

from torch import nn


def group_norm(num_groups: int) -> Callable[[int], nn.GroupNorm]:
    """A ``norm`` argument for Detectron2's layers: GroupNorm of ``num_groups`` groups.

    Detectron2's own name "GN" means 32 groups, which does not divide 48 channels.
    """
    return partial(nn.GroupNorm, num_groups)
