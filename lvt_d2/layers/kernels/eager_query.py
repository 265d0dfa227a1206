"""Atrous queries: one depthwise kernel at several dilations, SiLU, sum.

The backward pass keeps the input alone and computes the branches again. The gradient of a depthwise
convolution with respect to its input is one more such convolution, with the kernel turned by 180
degrees; with respect to the kernel it is nine sums of products. PyTorch's generic code for both is
many times slower on a CPU as soon as there is a dilation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lvt_d2.layers.kernels.common import in_autocast_dtype, needs_grad, without_autocast


def atrous_query(layer, x: Tensor) -> Tensor:
    """`AtrousQuery`'s sum: (B, H, W, C) -> (B, H, W, C)."""
    x, weight = in_autocast_dtype(x, layer.weight)
    with without_autocast(x):
        if needs_grad(x, weight):
            return _AtrousQuery.apply(x, weight, layer.rates)
        return _forward(x, weight, layer.rates)


def _forward(x: Tensor, weight: Tensor, rates: tuple[int, ...]) -> Tensor:
    total = None
    for rate in rates:
        branch = torch.ops.aten.silu_(depthwise(x, weight, rate))
        total = branch if total is None else total.add_(branch)
    return total


class _AtrousQuery(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, rates: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.rates = rates
        return _forward(x, weight, rates)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        of_x, of_weight = ctx.needs_input_grad[:2]
        grad_x = grad_weight = None
        for rate in ctx.rates:
            grad_branch = torch.ops.aten.silu_backward(grad, depthwise(x, weight, rate))
            if of_x:
                part = depthwise(grad_branch, weight.flip(2, 3), rate)
                grad_x = part if grad_x is None else grad_x.add_(part)
            if of_weight:
                part = depthwise_weight_grad(x, grad_branch, rate)
                grad_weight = part if grad_weight is None else grad_weight.add_(part)
        return grad_x, grad_weight, None


def depthwise(x: Tensor, weight: Tensor, rate: int = 1, bias: Tensor | None = None) -> Tensor:
    """Depthwise 3x3 convolution that keeps the size.

    Args:
        x: (B, H, W, C).
        weight: (C, 1, 3, 3).
        rate: dilation and padding, in pixels.
        bias: (C,).

    Returns:
        (B, H, W, C), contiguous for a contiguous ``x``.
    """
    x = x.permute(0, 3, 1, 2)
    padding = rate
    if rate > 3 and x.device.type == "cpu":
        # With a wider padding of its own, oneDNN falls back to a scalar loop, 50 times slower.
        x, padding = F.pad(x, (rate, rate, rate, rate)), 0
    x = F.conv2d(x, weight, bias, padding=padding, dilation=rate, groups=weight.shape[0])
    return x.permute(0, 2, 3, 1)


def depthwise_weight_grad(x: Tensor, grad: Tensor, rate: int = 1) -> Tensor:
    """Gradient of `depthwise` with respect to its weight.

    Args:
        x: the convolution's input, (B, H, W, C).
        grad: gradient of its output, (B, H, W, C).
        rate: dilation and padding, in pixels.

    Returns:
        (C, 1, 3, 3).
    """
    _, H, W, C = x.shape
    if rate == 1 or x.device.type != "cpu":
        return torch.ops.aten.convolution_backward(
            grad.permute(0, 3, 1, 2),
            x.permute(0, 3, 1, 2),
            x.new_empty(C, 1, 3, 3),
            None,
            [1, 1],
            [rate, rate],
            [rate, rate],
            False,
            [0, 0],
            C,
            [False, True, False],
        )[1]
    padded = F.pad(x, (0, 0, rate, rate, rate, rate))
    taps = [
        (padded[:, a * rate : a * rate + H, b * rate : b * rate + W] * grad).sum((0, 1, 2))
        for a in range(3)
        for b in range(3)
    ]
    return torch.stack(taps, 1).view(C, 1, 3, 3)
