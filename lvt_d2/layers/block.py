"""The residual block that every stage repeats."""

from torch import Tensor, nn
from torchvision.ops import StochasticDepth


class Block(nn.Module):
    """``x + attn(norm1(x))``, then ``x + mlp(norm2(x))``, with stochastic depth on both branches.

    Args:
        dim: channels C.
        attn: module that keeps the shape, given the normed map.
        mlp: module that keeps the shape, given the normed map.
        drop_path: probability that a branch is dropped for an image in training, 0..1.

    Shape:
        (B, H, W, C) -> (B, H, W, C).
    """

    def __init__(self, dim: int, attn: nn.Module, mlp: nn.Module, drop_path: float = 0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = mlp
        self.drop_path = StochasticDepth(drop_path, mode="row") if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))
