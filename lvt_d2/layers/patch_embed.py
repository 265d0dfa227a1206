"""Overlapping patch embedding: the strided convolution that opens a stage."""

from torch import Tensor, nn

from lvt_d2.layers.init import init_conv


class PatchEmbed(nn.Module):
    """Strided convolution with overlapping windows, then a LayerNorm over channels.

    Args:
        in_chans: channels of the input.
        dim: channels C of the output.
        kernel_size: side of the square window, odd; the padding is half of it.
        stride: step of the windows, in pixels of the input.

    Shape:
        (B, H, W, in_chans) -> (B, ceil(H / stride), ceil(W / stride), C).
    """

    def __init__(self, in_chans: int, dim: int, kernel_size: int, stride: int):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, kernel_size, stride, padding=kernel_size // 2)
        self.norm = nn.LayerNorm(dim)
        init_conv(self.proj)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.norm(x)
