"""Class attention: blocks in which a class token gathers what the other tokens know."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvt_d2.layers.init import init_linear
from lvt_d2.layers.mlp import MLP


class ClassAttention(nn.Module):
    """Attention whose only query is the first token; keys and values are all tokens.

    Its cost grows linearly with the number of tokens.

    Args:
        dim: channels C.
        num_heads: heads h; C must be divisible by it.

    Shape:
        (B, N, C) -> (B, 1, C).

    Raises:
        ValueError: ``dim`` is not divisible by ``num_heads``.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not divisible by num_heads {num_heads}")
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        for layer in (self.q, self.kv, self.proj):
            init_linear(layer)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.kv(x).chunk(2, dim=-1)
        q = self._split_heads(self.q(x[:, :1]))
        x = F.scaled_dot_product_attention(q, self._split_heads(k), self._split_heads(v))
        return self.proj(x.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, h, N, d)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class ClassBlock(nn.Module):
    """Residual block of class attention and MLP that updates the first token and no other.

    Args:
        dim: channels C.
        num_heads: heads of the attention.
        mlp_ratio: hidden channels of the MLP divided by C.

    Shape:
        (B, N, C) -> (B, N, C).
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int = 4):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = ClassAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, mlp_ratio, depthwise=False)

    def forward(self, x: Tensor) -> Tensor:
        token = x[:, :1] + self.attn(self.norm1(x))
        token = token + self.mlp(self.norm2(token))
        return torch.cat([token, x[:, 1:]], dim=1)
