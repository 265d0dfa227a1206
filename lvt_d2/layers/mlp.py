"""The feed-forward half of a block."""

import torch.nn.functional as F
from torch import Tensor, nn

from lvt_d2.layers.init import init_conv, init_linear
from lvt_d2.layers.kernels import FastLayer


class MLP(FastLayer):
    """Linear, optional depthwise 3x3 convolution, GELU, linear.

    The depthwise convolution tells tokens where they are: LVT has no position embedding.

    Args:
        dim: channels C of input and output.
        ratio: hidden channels divided by C.
        depthwise: put a depthwise 3x3 convolution before the GELU.
        memory_efficient: keep nothing but the input for the backward pass.

    Shape:
        (B, H, W, C) -> (B, H, W, C); without ``depthwise`` any (..., C).
    """

    operation = "mlp"

    def __init__(self, dim: int, ratio: int, depthwise: bool, memory_efficient: bool = False):
        super().__init__()
        self.memory_efficient = memory_efficient
        hidden = dim * ratio
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden) if depthwise else None
        self.fc2 = nn.Linear(hidden, dim)
        # Beside a convolution the two linear layers are 1x1 convolutions, and start as such.
        init = init_conv if depthwise else init_linear
        init(self.fc1)
        init(self.fc2)
        if self.dwconv is not None:
            init_conv(self.dwconv)

    def reference(self, x: Tensor) -> Tensor:
        """All tokens and all hidden channels at once."""
        x = self.fc1(x)
        if self.dwconv is not None:
            x = self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.fc2(F.gelu(x))
