"""The feed-forward half of a block in chunks that stay in the cache.

Without a depthwise convolution the chunks are tokens; with one they are hidden channels, whose
parts of the second product add up. A backward pass of such chunks needs the input alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lvt_d2.layers.kernels.common import in_autocast_dtype, needs_grad, without_autocast
from lvt_d2.layers.kernels.eager_query import depthwise, depthwise_weight_grad

CPU_TOKENS = 2048  # of a chunk
CPU_HIDDEN = 512 * 1024  # hidden numbers of a chunk: 2 MB in float32


def mlp(layer, x: Tensor) -> Tensor:
    """`MLP`'s output: (..., C) -> (..., C)."""
    convolution = layer.dwconv
    weights = [layer.fc1.weight, layer.fc1.bias, layer.fc2.weight, layer.fc2.bias]
    if convolution is not None:
        weights += [convolution.weight, convolution.bias]
    learns = needs_grad(x, *weights)
    if learns and not layer.memory_efficient:
        return layer.reference(x)
    x, *weights = in_autocast_dtype(x.contiguous(), *weights)
    function = _TokenMLP if convolution is None else _DepthwiseMLP
    with without_autocast(x):
        return function.apply(x, *weights) if learns else function.compute(x, *weights)


class _TokenMLP(torch.autograd.Function):
    """Linear, GELU, linear."""

    @staticmethod
    def compute(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        out = torch.empty_like(x)
        for source, target in zip(_token_chunks(x), _token_chunks(out), strict=True):
            hidden = torch.ops.aten.gelu_(F.linear(source, w1, b1))
            torch.addmm(b2, hidden, w2.t(), out=target)
        return out

    @staticmethod
    def forward(ctx, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        ctx.save_for_backward(x, w1, b1, w2)
        return _TokenMLP.compute(x, w1, b1, w2, b2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, w1, b1, w2 = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = torch.empty_like(x)
        grad_w1, grad_b1, grad_w2 = (torch.zeros_like(w) for w in (w1, b1, w2))
        chunks = (_token_chunks(t) for t in (x, grad, grad_x))
        for source, above, target in zip(*chunks, strict=True):
            hidden = F.linear(source, w1, b1)
            grad_w2.addmm_(above.t(), F.gelu(hidden))
            grad_hidden = torch.ops.aten.gelu_backward(above @ w2, hidden)
            grad_w1.addmm_(grad_hidden.t(), source)
            grad_b1 += grad_hidden.sum(0)
            torch.mm(grad_hidden, w1, out=target)
        return grad_x, grad_w1, grad_b1, grad_w2, grad.flatten(0, -2).sum(0)


class _DepthwiseMLP(torch.autograd.Function):
    """Linear, depthwise 3x3 convolution, GELU, linear."""

    @staticmethod
    def compute(
        x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, wd: Tensor, bd: Tensor
    ) -> Tensor:
        out = None
        for part in _hidden_chunks(x, len(w1)):
            hidden = depthwise(F.linear(x, w1[part], b1[part]), wd[part], 1, bd[part])
            hidden = torch.ops.aten.gelu_(hidden).flatten(0, -2)
            if out is None:
                out = torch.addmm(b2, hidden, w2[:, part].t())
            else:
                out.addmm_(hidden, w2[:, part].t())
        return out.view_as(x)

    @staticmethod
    def forward(
        ctx, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, wd: Tensor, bd: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, w1, b1, w2, wd, bd)
        return _DepthwiseMLP.compute(x, w1, b1, w2, b2, wd, bd)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, w1, b1, w2, wd, bd = ctx.saved_tensors
        grad = grad.contiguous()
        above, source = grad.flatten(0, -2), x.flatten(0, -2)
        grad_x = torch.zeros_like(source)
        grad_w1, grad_b1, grad_w2, grad_wd, grad_bd = (
            torch.empty_like(w) for w in (w1, b1, w2, wd, bd)
        )
        for part in _hidden_chunks(x, len(w1)):
            before = F.linear(x, w1[part], b1[part])
            hidden = depthwise(before, wd[part], 1, bd[part])
            grad_w2[:, part] = above.t() @ F.gelu(hidden).flatten(0, -2)
            grad_hidden = (above @ w2[:, part]).view_as(hidden)
            grad_hidden = torch.ops.aten.gelu_backward(grad_hidden, hidden)
            grad_bd[part] = grad_hidden.sum((0, 1, 2))
            grad_wd[part] = depthwise_weight_grad(before, grad_hidden)
            grad_before = depthwise(grad_hidden, wd[part].flip(2, 3)).flatten(0, -2)
            grad_w1[part] = grad_before.t() @ source
            grad_b1[part] = grad_before.sum(0)
            grad_x.addmm_(grad_before, w1[part])
        return grad_x.view_as(x), grad_w1, grad_b1, grad_w2, above.sum(0), grad_wd, grad_bd


def _token_chunks(x: Tensor) -> tuple[Tensor, ...]:
    """Views of (..., C) as pieces of (tokens, C)."""
    flat = x.view(-1, x.shape[-1])
    return flat.split(CPU_TOKENS if x.device.type == "cpu" else max(len(flat), 1))


def _hidden_chunks(x: Tensor, hidden: int) -> list[slice]:
    """Slices of the hidden channels, at most 8 and of 64 channels or more."""
    chunks = 1
    if x.device.type == "cpu":
        tokens = x.numel() // x.shape[-1]
        chunks = max(1, min(8, hidden // 64, tokens * hidden // CPU_HIDDEN))
    size = -(-hidden // chunks)
    return [slice(start, start + size) for start in range(0, hidden, size)]
