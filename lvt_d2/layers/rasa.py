"""RASA, recursive atrous self-attention (stages 2 to 4 of LVT)."""

from collections.abc import Sequence

import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from lvt_d2.layers.atrous_query import AtrousQuery
from lvt_d2.layers.init import init_conv, init_linear


class RASA(nn.Module):
    """Self-attention with multi-scale queries, applied recursively with the same weights.

    One attention ``f`` has queries from ``AtrousQuery`` and keys and values from a map reduced by
    ``sr_ratio``. The recursion ``x <- silu(f(x)) + x`` deepens the layer at no cost in parameters.

    Args:
        dim: channels C.
        num_heads: heads h; C must be divisible by it.
        sr_ratio: side of the non-overlapping windows that keys and values are reduced by, in
            pixels of this map; 1 leaves the map as it is.
        atrous_rates: dilations of the queries, in pixels of this map.
        recursions: how often ``f`` is applied; 1 is plain attention without SiLU.

    Shape:
        (B, H, W, C) -> (B, H, W, C); H and W at least ``sr_ratio``.

    Raises:
        ValueError: an argument makes no sense, or the map is smaller than ``sr_ratio``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        sr_ratio: int = 1,
        atrous_rates: Sequence[int] = (1, 3, 5),
        recursions: int = 2,
    ):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not divisible by num_heads {num_heads}")
        if recursions < 1:
            raise ValueError(f"recursions is {recursions}; expected at least 1")
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.recursions = recursions
        self.q = nn.Linear(dim, dim, bias=False)
        self.atrous = AtrousQuery(dim, atrous_rates)
        self.sr, self.sr_norm = None, None
        if sr_ratio > 1:
            self.sr = nn.Conv2d(dim, dim, sr_ratio, sr_ratio)
            self.sr_norm = nn.LayerNorm(dim)
            init_conv(self.sr)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        for layer in (self.q, self.kv, self.proj):
            init_linear(layer)

    def forward(self, x: Tensor) -> Tensor:
        check_map_size(x, self.sr_ratio)
        if self.recursions == 1:
            return self.attend(x)
        y = F.silu(self.attend(x))
        for _ in range(self.recursions - 1):
            x = y + x
            y = F.silu(self.attend(x))
        return y

    def attend(self, x: Tensor) -> Tensor:
        """The inner attention ``f``: (B, H, W, C) -> (B, H, W, C)."""
        B, H, W, C = x.shape
        q = self._split_heads(self.atrous(self.q(x)))
        k, v = self.kv(self._reduce(x)).chunk(2, dim=-1)
        x = F.scaled_dot_product_attention(q, self._split_heads(k), self._split_heads(v))
        return self.proj(x.transpose(1, 2).reshape(B, H, W, C))

    def _reduce(self, x: Tensor) -> Tensor:
        if self.sr is None or self.sr_norm is None:
            return x
        x = self.sr(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.sr_norm(x)

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, h, N, d)."""
        return x.flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


@torch.fx.wrap  # a branch on the size of an input: symbolic tracing keeps it as a call
def check_map_size(x: Tensor, sr_ratio: int) -> None:
    """Raise ValueError for a map that one window does not fit in: (B, H, W, C)."""
    H, W = x.shape[1], x.shape[2]
    if H < sr_ratio or W < sr_ratio:
        raise ValueError(
            f"the map is {H}x{W}, smaller than sr_ratio {sr_ratio}; give LVT images of at least 32 "
            "pixels a side"
        )
