"""Initial values of LVT's weights (the paper's code trains from these)."""

import math

from torch import nn


def init_linear(layer: nn.Linear) -> None:
    """Truncated normal weights of std 0.02, zero bias."""
    nn.init.trunc_normal_(layer.weight, std=0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def init_conv(layer: nn.Conv2d | nn.Linear) -> None:
    """Normal weights of std ``sqrt(2 / fan_out)``, zero bias.

    A linear layer counts as a 1x1 convolution: ``fan_out`` is its number of outputs.
    """
    fan_out = layer.weight.shape[0]
    if isinstance(layer, nn.Conv2d):
        fan_out = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
    nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
