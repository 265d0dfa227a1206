"""The feed-forward half of a block with its hidden numbers on the chip, or read once.

Without a depthwise convolution one kernel does linear, GELU and linear for a tile of tokens, chunk
after chunk of the hidden channels, which never reach memory: neither in the backward pass, whose
kernels (one for the input, one for the weights) compute them again from the input.

With a depthwise convolution the linear layers are plain matrix products, for which PyTorch calls
the vendor's library, and convolution, bias and GELU between them are one kernel of `triton_query`.

Tested in Triton's interpreter; speed on a GPU has not been measured.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from lvt_d2.layers.kernels.common import in_autocast_dtype, needs_grad, without_autocast
from lvt_d2.layers.kernels.triton_common import (
    gelu,
    gelu_slope,
    on_device,
    padded,
    product,
    splits,
    wrong_channels,
)
from lvt_d2.layers.kernels.triton_query import depthwise_activation, why_not_channels

_SIZES = ["tokens"]


def mlp(layer, x: Tensor) -> Tensor:
    """`MLP`'s output: (..., C) -> (..., C)."""
    convolution = layer.dwconv
    weights = [layer.fc1.weight, layer.fc1.bias, layer.fc2.weight, layer.fc2.bias]
    if convolution is not None:
        weights += [convolution.weight, convolution.bias]
    x, *weights = (t.contiguous() for t in in_autocast_dtype(x, *weights))
    learns = needs_grad(x, *weights)
    with without_autocast(x):
        if convolution is not None:
            if learns and layer.memory_efficient:
                return checkpoint(
                    _depthwise_mlp, x, *weights, use_reentrant=False, preserve_rng_state=False
                )
            return _depthwise_mlp(x, *weights)
        return _TokenMLP.apply(x, *weights) if learns else _forward(x, *weights)


def why_not_mlp(layer) -> str | None:
    """Why the kernels can't compute an `MLP`; None if they can."""
    hidden, C = layer.fc1.weight.shape
    if layer.dwconv is not None:
        return why_not_channels(hidden)
    return wrong_channels(C)


def _depthwise_mlp(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, wd: Tensor, bd: Tensor
) -> Tensor:
    hidden = depthwise_activation(F.linear(x, w1, b1), wd, bd, (1,), "gelu")
    return F.linear(hidden, w2, b2)


class _TokenMLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        ctx.save_for_backward(x, w1, b1, w2)
        return _forward(x, w1, b1, w2, b2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, w1, b1, w2 = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = grad_w1 = grad_b1 = grad_w2 = None
        if ctx.needs_input_grad[0]:
            grad_x = _backward_input(x, w1, b1, w2, grad)
        if any(ctx.needs_input_grad[1:4]):
            grad_w1, grad_b1, grad_w2 = _backward_weights(x, w1, b1, w2, grad)
        return grad_x, grad_w1, grad_b1, grad_w2, grad.flatten(0, -2).sum(0)


def _constants(x: Tensor, w1: Tensor) -> dict:
    """Tiles whose sums fit the registers, and whose factors fit the shared memory of any GPU.

    Products in float32 don't run on tensor cores and keep their factors in registers, and so get
    smaller tiles and more threads. Compiled for compute capability 9.0, no kernel spills registers
    at 64 channels.
    """
    C = x.shape[-1]
    narrow, half = C <= 64, x.dtype is not torch.float32
    return {
        "C": C,
        "HIDDEN": len(w1),
        "BLOCK_C": padded(C),
        "TOKENS": (64 if narrow else 32) if half else (32 if narrow else 16),
        "CHUNK": 64 if narrow and half else 32,
        "num_warps": 4 if half else 8,
        "num_stages": 2 if narrow else 1,
    }


def _forward(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    out = torch.empty_like(x)
    constants = _constants(x, w1)
    tokens = x.numel() // x.shape[-1]
    with on_device(x):
        _forward_kernel[(triton.cdiv(tokens, constants["TOKENS"]),)](
            x, w1, b1, w2, b2, out, tokens, **constants
        )
    return out


def _backward_input(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, grad: Tensor) -> Tensor:
    out = torch.empty_like(x)
    constants = _constants(x, w1)
    tokens = x.numel() // x.shape[-1]
    with on_device(x):
        _backward_input_kernel[(triton.cdiv(tokens, constants["TOKENS"]),)](
            x, w1, b1, w2, grad, out, tokens, **constants
        )
    return out


def _backward_weights(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the first layer's weight and bias, and of the second layer's weight."""
    constants = _constants(x, w1)
    constants["CHUNK"] = 32  # of either weight's gradient, which lie in registers
    tokens = x.numel() // x.shape[-1]
    chunks = triton.cdiv(len(w1), constants["CHUNK"])
    parts = splits(triton.cdiv(tokens, constants["TOKENS"]), 512 // chunks)
    of_w1 = x.new_empty(parts, *w1.shape, dtype=torch.float32)
    of_b1 = x.new_empty(parts, *b1.shape, dtype=torch.float32)
    of_w2 = torch.empty_like(of_w1)  # transposed
    with on_device(x):
        _backward_weights_kernel[(parts, chunks)](
            x, w1, b1, w2, grad, of_w1, of_b1, of_w2, tokens, **constants
        )
    return of_w1.sum(0).to(w1.dtype), of_b1.sum(0).to(b1.dtype), of_w2.sum(0).t().to(w2.dtype)


@triton.jit
def _load_tokens(x, first, tokens, C: tl.constexpr, BLOCK_C: tl.constexpr, TOKENS: tl.constexpr):
    """A tile (tokens, channels), zeros outside."""
    t, c = tl.arange(0, TOKENS), tl.arange(0, BLOCK_C)
    mask = (first + t < tokens)[:, None] & (c < C)[None, :]
    return tl.load(x + first.to(tl.int64) * C + t[:, None] * C + c[None, :], mask=mask, other=0)


@triton.jit
def _store_tokens(
    x, tile, first, tokens, C: tl.constexpr, BLOCK_C: tl.constexpr, TOKENS: tl.constexpr
):
    t, c = tl.arange(0, TOKENS), tl.arange(0, BLOCK_C)
    mask = (first + t < tokens)[:, None] & (c < C)[None, :]
    pointers = x + first.to(tl.int64) * C + t[:, None] * C + c[None, :]
    tl.store(pointers, tile.to(x.dtype.element_ty), mask=mask)


@triton.jit
def _columns_of(weight, s, C: tl.constexpr, HIDDEN: tl.constexpr, BLOCK_C: tl.constexpr):
    """Hidden channels s of the first layer, transposed: (C, s)."""
    c = tl.arange(0, BLOCK_C)
    mask = (c < C)[:, None] & (s < HIDDEN)[None, :]
    return tl.load(weight + s[None, :] * C + c[:, None], mask=mask, other=0)


@triton.jit
def _before_gelu(tile, w1, b1, s, C: tl.constexpr, HIDDEN: tl.constexpr, BLOCK_C: tl.constexpr):
    """Hidden channels s of a tile, in float32."""
    bias = tl.load(b1 + s, mask=s < HIDDEN, other=0).to(tl.float32)
    return product(tile, _columns_of(w1, s, C, HIDDEN, BLOCK_C)) + bias[None, :]


@triton.jit
def _of_hidden(above, w2, s, C: tl.constexpr, HIDDEN: tl.constexpr, BLOCK_C: tl.constexpr):
    """Gradient of what the second layer is given, from that of its output."""
    c = tl.arange(0, BLOCK_C)
    mask = (c < C)[:, None] & (s < HIDDEN)[None, :]
    matrix = tl.load(w2 + c[:, None] * HIDDEN + s[None, :], mask=mask, other=0)
    return product(above, matrix)


@triton.jit(do_not_specialize=_SIZES)
def _forward_kernel(
    x,
    w1,
    b1,
    w2,
    b2,
    out,
    tokens,
    C: tl.constexpr,
    HIDDEN: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TOKENS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    first = tl.program_id(0) * TOKENS
    c = tl.arange(0, BLOCK_C)
    tile = _load_tokens(x, first, tokens, C, BLOCK_C, TOKENS)
    total = tl.zeros((TOKENS, BLOCK_C), tl.float32)
    for start in range(0, HIDDEN, CHUNK):
        s = start + tl.arange(0, CHUNK)
        hidden = gelu(_before_gelu(tile, w1, b1, s, C, HIDDEN, BLOCK_C)).to(x.dtype.element_ty)
        mask = (s < HIDDEN)[:, None] & (c < C)[None, :]
        matrix = tl.load(w2 + c[None, :] * HIDDEN + s[:, None], mask=mask, other=0)
        total += product(hidden, matrix)
    total += tl.load(b2 + c, mask=c < C, other=0).to(tl.float32)[None, :]
    _store_tokens(out, total, first, tokens, C, BLOCK_C, TOKENS)


@triton.jit(do_not_specialize=_SIZES)
def _backward_input_kernel(
    x,
    w1,
    b1,
    w2,
    grad,
    out,
    tokens,
    C: tl.constexpr,
    HIDDEN: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TOKENS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    first = tl.program_id(0) * TOKENS
    c = tl.arange(0, BLOCK_C)
    tile = _load_tokens(x, first, tokens, C, BLOCK_C, TOKENS)
    above = _load_tokens(grad, first, tokens, C, BLOCK_C, TOKENS)
    total = tl.zeros((TOKENS, BLOCK_C), tl.float32)
    for start in range(0, HIDDEN, CHUNK):
        s = start + tl.arange(0, CHUNK)
        before = _before_gelu(tile, w1, b1, s, C, HIDDEN, BLOCK_C)
        of_before = _of_hidden(above, w2, s, C, HIDDEN, BLOCK_C) * gelu_slope(before)
        mask = (s < HIDDEN)[:, None] & (c < C)[None, :]
        matrix = tl.load(w1 + s[:, None] * C + c[None, :], mask=mask, other=0)
        total += product(of_before.to(x.dtype.element_ty), matrix)
    _store_tokens(out, total, first, tokens, C, BLOCK_C, TOKENS)


@triton.jit(do_not_specialize=_SIZES)
def _backward_weights_kernel(
    x,
    w1,
    b1,
    w2,
    grad,
    of_w1,
    of_b1,
    of_w2,
    tokens,
    C: tl.constexpr,
    HIDDEN: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TOKENS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    s = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    c = tl.arange(0, BLOCK_C)
    sum_w1 = tl.zeros((CHUNK, BLOCK_C), tl.float32)
    sum_w2 = tl.zeros((CHUNK, BLOCK_C), tl.float32)
    sum_b1 = tl.zeros((CHUNK,), tl.float32)
    for skipped in range(0, tokens, tl.num_programs(0) * TOKENS):
        first = skipped + tl.program_id(0) * TOKENS
        tile = _load_tokens(x, first, tokens, C, BLOCK_C, TOKENS)
        above = _load_tokens(grad, first, tokens, C, BLOCK_C, TOKENS)
        before = _before_gelu(tile, w1, b1, s, C, HIDDEN, BLOCK_C)
        hidden = gelu(before).to(x.dtype.element_ty)
        # Tokens behind the last have a gradient of zero, and no part in any sum.
        of_before = _of_hidden(above, w2, s, C, HIDDEN, BLOCK_C) * gelu_slope(before)
        sum_w1 += product(tl.trans(of_before.to(x.dtype.element_ty)), tile)
        sum_w2 += product(tl.trans(hidden), above)
        sum_b1 += tl.sum(of_before, 0)
    row = tl.program_id(0) * HIDDEN + s
    mask = (s < HIDDEN)[:, None] & (c < C)[None, :]
    tl.store(of_w1 + row[:, None] * C + c[None, :], sum_w1, mask=mask)
    tl.store(of_w2 + row[:, None] * C + c[None, :], sum_w2, mask=mask)
    tl.store(of_b1 + row, sum_b1, mask=s < HIDDEN)
