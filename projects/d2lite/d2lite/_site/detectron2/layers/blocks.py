"""Blocks of convolutional networks."""

from fvcore.nn import weight_init
from torch import Tensor, nn

from .batch_norm import FrozenBatchNorm2d, get_norm
from .wrappers import Conv2d


class CNNBlockBase(nn.Module):
    """A block with known channels and stride.

    Attributes:
        in_channels: C of the input.
        out_channels: C of the output.
        stride: of the whole block.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride

    def freeze(self) -> "CNNBlockBase":
        """Exclude all parameters from training and fix all BatchNorms, in place.

        Returns:
            The block itself.
        """
        self.requires_grad_(False)
        FrozenBatchNorm2d.convert_frozen_batchnorm(self)
        return self


class DepthwiseSeparableConv2d(nn.Module):
    """A convolution per channel (``depthwise``), then a 1x1 convolution (``pointwise``)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        padding: int = 1,
        dilation: int = 1,
        *,
        norm1=None,
        activation1=None,
        norm2=None,
        activation2=None,
    ):
        """Build both convolutions; each has a bias only where it has no norm.

        Args:
            in_channels: C of the input.
            out_channels: C of the output.
            kernel_size: of the depthwise convolution.
            padding: of the depthwise convolution.
            dilation: of the depthwise convolution.
            norm1: norm after it, anything that `get_norm` takes.
            activation1: function after that norm.
            norm2: norm after the pointwise convolution.
            activation2: function after that norm.
        """
        super().__init__()
        shape = dict(padding=padding, dilation=dilation, groups=in_channels)
        after1 = dict(bias=not norm1, norm=get_norm(norm1, in_channels), activation=activation1)
        after2 = dict(bias=not norm2, norm=get_norm(norm2, out_channels), activation=activation2)
        self.depthwise = Conv2d(in_channels, in_channels, kernel_size, **shape, **after1)
        self.pointwise = Conv2d(in_channels, out_channels, kernel_size=1, **after2)
        weight_init.c2_msra_fill(self.depthwise)
        weight_init.c2_msra_fill(self.pointwise)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))
