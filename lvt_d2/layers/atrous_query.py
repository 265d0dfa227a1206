"""Multi-scale queries of recursive atrous self-attention."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvt_d2.layers.kernels import FastLayer


class AtrousQuery(FastLayer):
    """Sum of one shared depthwise 3x3 kernel applied at several dilations, SiLU after each.

    Sharing the kernel makes the extra scales free in parameters (9C, whatever the rates).

    Args:
        dim: channels C.
        rates: dilation of each branch, in pixels of this map; padding equals the rate.

    Shape:
        (B, H, W, C) -> (B, H, W, C).
    """

    operation = "atrous_query"

    def __init__(self, dim: int, rates: Sequence[int] = (1, 3, 5)):
        super().__init__()
        self.dim = dim
        self.rates = tuple(rates)
        if not self.rates or min(self.rates) < 1:
            raise ValueError(f"rates is {self.rates}; expected one or more dilations of at least 1")
        self.weight = nn.Parameter(torch.empty(dim, 1, 3, 3))
        nn.init.kaiming_uniform_(self.weight, a=0)

    def reference(self, x: Tensor) -> Tensor:
        """One convolution after another."""
        x = x.permute(0, 3, 1, 2)
        total = None
        for rate in self.rates:
            branch = F.conv2d(x, self.weight, padding=rate, dilation=rate, groups=self.dim)
            branch = F.silu(branch)
            total = branch if total is None else total + branch
        return total.permute(0, 2, 3, 1)

    def extra_repr(self) -> str:
        return f"{self.dim}, rates={self.rates}"
