"""CSA, convolutional self-attention (stage 1 of LVT).

Shape letters beside the project's own: ``h w`` windows along the height and the width,
``L = B*h*w`` windows, ``p`` a position inside a window where a value comes from, ``q`` one where an
output goes to; positions are numbered row by row, 0 to 8.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvt_d2.layers.init import init_linear
from lvt_d2.layers.kernels import FastLayer
from lvt_d2.layers.kernels.eager_csa import position_first

K = 3  # side of a window; windows step by 2 pixels, and a border of 1 zero pixel is added


class CSA(FastLayer):
    """Self-attention inside 3x3 windows of stride 2, with a value matrix for every position.

    A 3x3 convolution is a sum over positions of ``V_p x_p``. Here every window mixes these nine
    products by an attention map ``A`` of its own into nine outputs, and every pixel sums the
    outputs of all windows that cover it: a convolution whose kernel depends on the input.

    Args:
        dim: channels C.
        num_heads: heads; C must be divisible by it.
        memory_efficient: keep nothing but the input for the backward pass.

    Shape:
        (B, H, W, C) -> (B, H, W, C), any H and W.

    Raises:
        ValueError: ``dim`` is not divisible by ``num_heads``.
    """

    operation = "csa"

    def __init__(self, dim: int, num_heads: int, memory_efficient: bool = False):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not divisible by num_heads {num_heads}")
        self.num_heads = num_heads
        self.memory_efficient = memory_efficient
        self.attention = nn.Linear(dim, num_heads * K**4)  # rows are (head, q, p)
        self.value_weight = nn.Parameter(torch.empty(K * K, dim, dim))
        self.proj = nn.Linear(dim, dim)
        init_linear(self.attention)
        init_linear(self.proj)
        nn.init.normal_(self.value_weight, std=math.sqrt(2 / (K * K * dim)))

    def reference(self, x: Tensor) -> Tensor:
        """Every window at once."""
        H, W, C = x.shape[1:]
        B, h, w = x.shape[0], (H + 1) // 2, (W + 1) // 2
        values = torch.bmm(gather_windows(x).flatten(1, 3), self.value_weight.transpose(1, 2))
        values = values.view(9, -1, self.num_heads, C // self.num_heads)
        mixed = torch.einsum("lpnq,plnd->qlnd", self._attention_maps(x), values)
        x = fold_windows(mixed.reshape(9, B, h, w, C), H, W)
        return self.proj(x)

    def _attention_maps(self, x: Tensor) -> Tensor:
        """Softmax over the value positions p: (B, H, W, C) -> (L, p, head, q)."""
        # Ceil mode: a 2x2 window cut by the border averages the pixels that are inside.
        pooled = F.avg_pool2d(x.permute(0, 3, 1, 2), 2, ceil_mode=True).permute(0, 2, 3, 1)
        weight, bias = position_first(self.attention.weight, self.attention.bias, self.num_heads)
        logits = F.linear(pooled.flatten(0, 2), weight, bias)
        return logits.unflatten(-1, (9, -1)).softmax(dim=1).unflatten(-1, (self.num_heads, 9))


def gather_windows(x: Tensor) -> Tensor:
    """The nine pixels of every window, zeros outside of the map.

    Shape:
        (B, H, W, C) -> (9, B, h, w, C) with h = ceil(H / 2), w = ceil(W / 2).
    """
    H, W = x.shape[1:3]
    h, w = (H + 1) // 2, (W + 1) // 2
    x = F.pad(x, (0, 0, 1, 2 * w - W, 1, 2 * h - H))
    taps: list[Tensor] = []
    for a in range(3):
        for b in range(3):
            taps.append(x[:, a : a + 2 * h - 1 : 2, b : b + 2 * w - 1 : 2])
    return torch.stack(taps)


def fold_windows(windows: Tensor, height: int, width: int) -> Tensor:
    """Sum the windows' nine outputs onto the pixels they stand for: the adjoint of the gather.

    Shape:
        (9, B, h, w, C) -> (B, height, width, C).
    """
    rows = _overlap_add(windows.unflatten(0, (3, 3)), dim=3)
    pixels = _overlap_add(rows, dim=3)
    return pixels[:, :height, :width]


def _overlap_add(x: Tensor, dim: int) -> Tensor:
    """Sum along one direction: (3, ..., n at ``dim``, ...) -> (..., 2n at ``dim - 1``, ...).

    Pixel 2i is the middle of window i alone; pixel 2i+1 is the end of window i and the beginning of
    window i+1. What the first window puts before the map is dropped.
    """
    before, middle, after = x.unbind(0)
    dim -= 1
    n = middle.shape[dim]
    following = before.narrow(dim, 1, n - 1)
    border = torch.zeros_like(before.narrow(dim, 0, 1))
    after = after + torch.cat([following, border], dim)
    return torch.stack([middle, after], dim + 1).flatten(dim, dim + 1)
