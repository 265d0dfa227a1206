"""Thin layers over torch's: convolution with norm and activation, and help with shapes."""

import functools
from typing import List, Optional  # noqa: UP035 (TorchScript compiles this)

import torch
from torch import Tensor, nn
from torch.nn import BatchNorm2d, ConvTranspose2d, Linear, functional as F  # noqa: F401

interpolate = F.interpolate


def shapes_to_tensor(x: List[int], device: Optional[torch.device] = None) -> Tensor:  # noqa: UP006, UP045
    """Turn a list of integers, or while tracing of scalar tensors, into one tensor.

    Raises:
        AssertionError: integers while tracing; they would become constants of the graph.
    """
    if not torch.jit.is_scripting() and torch.jit.is_tracing():
        assert all(isinstance(size, Tensor) for size in x), "Shapes must be tensors in tracing!"
        shape = torch.stack(x)
        # A move to where it is already would write the device into the graph.
        return shape if device is None or shape.device == device else shape.to(device)
    return torch.as_tensor(x, device=device)


@torch.jit.script_if_tracing
def move_device_like(src: Tensor, dst: Tensor) -> Tensor:
    """Move ``src`` to the device of ``dst``, in a traced graph to that of the day."""
    return src.to(dst.device)


def cat(tensors: List[Tensor], dim: int = 0) -> Tensor:  # noqa: UP006
    """``torch.cat`` that returns a single tensor as it is."""
    assert isinstance(tensors, (list, tuple))
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def nonzero_tuple(x: Tensor):
    """``x.nonzero(as_tuple=True)`` that TorchScript can compile."""
    if torch.jit.is_scripting():
        return torch.atleast_1d(x).nonzero().unbind(1)
    return x.nonzero(as_tuple=True)


def empty_input_loss_func_wrapper(loss_func):
    """Make the mean of a loss over nothing 0, with a gradient of 0, instead of NaN."""

    @functools.wraps(loss_func)
    def wrapped(input: Tensor, target: Tensor, *, reduction: str = "mean", **kwargs) -> Tensor:
        if target.numel() == 0 and reduction == "mean":
            return input.sum() * 0.0
        return loss_func(input, target, reduction=reduction, **kwargs)

    return wrapped


cross_entropy = empty_input_loss_func_wrapper(F.cross_entropy)


class Conv2d(nn.Conv2d):
    """``torch.nn.Conv2d``, then a norm, then an activation.

    Padding is always with zeros.
    """

    def __init__(self, *args, norm: nn.Module | None = None, activation=None, **kwargs):
        """Pass all arguments but these two to ``torch.nn.Conv2d``.

        Args:
            *args: of ``torch.nn.Conv2d``.
            norm: a module for the output's channels.
            activation: a function or module.
            **kwargs: of ``torch.nn.Conv2d``.
        """
        super().__init__(*args, **kwargs)
        self.norm, self.activation = norm, activation

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():  # TorchScript knows no SyncBatchNorm
            needs_some = self.training and isinstance(self.norm, nn.SyncBatchNorm)
            assert not needs_some or x.numel() > 0, "SyncBatchNorm does not support empty inputs!"
        stride, padding, dilation = self.stride, self.padding, self.dilation
        x = F.conv2d(x, self.weight, self.bias, stride, padding, dilation, self.groups)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        return x
