"""Depthwise 3x3 convolutions with what surrounds them, in one kernel per direction.

``sum_r act(conv_r(x) + bias)`` over dilations r of one shared kernel: with SiLU the atrous queries,
with GELU and one rate the middle of the MLPs. Nothing but the input is kept for the backward pass.

The backward pass has two kernels. One computes the branches again, writes the gradients ``g_r`` of
the convolutions' outputs, and sums the gradients of kernel and bias; the other sums the
contributions of all ``g_r`` to every pixel of the input. No sum is atomic: results are the same on
every run.

Tested in Triton's interpreter; speed on a GPU has not been measured.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from lvt_d2.layers.kernels.common import in_autocast_dtype, needs_grad, without_autocast
from lvt_d2.layers.kernels.triton_common import (
    gelu,
    gelu_slope,
    on_device,
    silu,
    silu_slope,
    splits,
)

# Side of a tile in pixels. Square tiles share most of what neighbouring pixels read: at dilation 5
# a tile of 64 reads 5 times its own pixels, and a row of 64 pixels 7 times.
SIDE = 8
# Channels of a tile at most: 64 pixels x 64 channels are 16 float32 sums for each of 256 threads.
CHANNELS = 64
WARPS = 8
_SIZES = ["H", "W", "tiles", "numel"]


def atrous_query(layer, x: Tensor) -> Tensor:
    """`AtrousQuery`'s sum: (B, H, W, C) -> (B, H, W, C)."""
    x, weight = in_autocast_dtype(x, layer.weight)
    with without_autocast(x):
        return depthwise_activation(x, weight, None, layer.rates, "silu")


def why_not_query(layer) -> str | None:
    """Why the kernels can't compute an `AtrousQuery`; None if they can."""
    return why_not_channels(len(layer.weight))


def why_not_channels(C: int) -> str | None:
    """Why the kernels can't convolve C channels; None if they can."""
    return None if C % 16 == 0 else f"{C} channels; the Triton kernel takes multiples of 16"


def depthwise_activation(
    x: Tensor, weight: Tensor, bias: Tensor | None, rates: tuple[int, ...], activation: str
) -> Tensor:
    """``sum_r act(conv_r(x) + bias)`` with padding that keeps the size.

    Args:
        x: (B, H, W, C), C a multiple of 16.
        weight: (C, 1, 3, 3).
        bias: (C,).
        rates: dilation of each branch, in pixels.
        activation: ``"silu"`` or ``"gelu"``.

    Returns:
        (B, H, W, C).
    """
    x, weight = x.contiguous(), weight.contiguous()
    if needs_grad(x, weight, bias):
        return _DepthwiseActivation.apply(x, weight, bias, rates, activation)
    return _forward(x, weight, bias, rates, activation)


class _DepthwiseActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, rates, activation: str):
        ctx.save_for_backward(x, weight, bias)
        ctx.rates, ctx.activation = rates, activation
        return _forward(x, weight, bias, rates, activation)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight, bias = ctx.saved_tensors
        learns = any(ctx.needs_input_grad[1:3])
        branches, sums = _backward_branches(
            x, weight, bias, ctx.rates, ctx.activation, grad.contiguous(), learns
        )
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _backward_input(branches, weight, ctx.rates)
        if learns:
            grad_weight = sums[:9].t().reshape(weight.shape).to(weight.dtype)
            grad_bias = None if bias is None else sums[9].to(bias.dtype)
        return grad_x, grad_weight, grad_bias, None, None


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, rates, activation: str) -> Tensor:
    out = torch.empty_like(x)
    tiles, blocks, meta = _grid(x)
    with on_device(x):
        _forward_kernel[(tiles, blocks)](
            x,
            weight,
            weight if bias is None else bias,
            _on_device(rates, x.device),
            out,
            *x.shape[1:3],
            BIAS=bias is not None,
            GELU=activation == "gelu",
            RATES=len(rates),
            **meta,
        )
    return out


def _backward_branches(
    x: Tensor, weight: Tensor, bias: Tensor | None, rates, activation: str, grad: Tensor, learns
) -> tuple[Tensor, Tensor | None]:
    """Gradients of the convolutions' outputs, (rates, B, H, W, C), and of the parameters.

    Returns:
        The branches' gradients; rows 0 to 8 gradients of the taps and row 9 that of the bias,
        (16, C) in float32, None if they don't learn.
    """
    branches = x.new_empty(len(rates), *x.shape)
    tiles, blocks, meta = _grid(x)
    programs = splits(tiles, 512 // blocks)
    partial = x.new_empty(programs if learns else 0, 16, x.shape[3], dtype=torch.float32)
    with on_device(x):
        _branches_kernel[(programs, blocks)](
            x,
            weight,
            weight if bias is None else bias,
            _on_device(rates, x.device),
            grad,
            branches,
            partial if learns else x,
            *x.shape[1:3],
            tiles,
            x.numel(),
            BIAS=bias is not None,
            GELU=activation == "gelu",
            LEARNS=learns,
            RATES=len(rates),
            **meta,
        )
    return branches, partial.sum(0) if learns else None


def _backward_input(branches: Tensor, weight: Tensor, rates: tuple[int, ...]) -> Tensor:
    out = torch.empty_like(branches[0])
    tiles, blocks, meta = _grid(out)
    with on_device(out):
        _input_kernel[(tiles, blocks)](
            branches,
            weight,
            _on_device(rates, out.device),
            out,
            *out.shape[1:3],
            out.numel(),
            RATES=len(rates),
            **meta,
        )
    return out


def _grid(x: Tensor) -> tuple[int, int, dict]:
    """Tiles of pixels, blocks of channels, and the compile-time constants of a map."""
    B, H, W, C = x.shape
    block = min(C & -C, CHANNELS)  # the largest power of two that divides C: no channel is masked
    tiles = B * triton.cdiv(H, SIDE) * triton.cdiv(W, SIDE)
    return tiles, C // block, {"C": C, "BLOCK": block, "SIDE": SIDE, "num_warps": WARPS}


@lru_cache(maxsize=64)
def _on_device(rates: tuple[int, ...], device: torch.device) -> Tensor:
    """The rates where kernels read them: as arguments every tuple would be compiled anew."""
    with torch.inference_mode(False):
        return torch.tensor(rates, dtype=torch.int32, device=device)


@triton.jit
def _tile(tile, H, W, SIDE: tl.constexpr):
    """Image, and y and x of the tile's pixels."""
    across = tl.cdiv(W, SIDE)
    down = tl.cdiv(H, SIDE)
    pixel = tl.arange(0, SIDE * SIDE)
    y = tile // across % down * SIDE + pixel // SIDE
    x = tile % across * SIDE + pixel % SIDE
    return (tile // (across * down)).to(tl.int64), y, x


@triton.jit
def _at(y, x, channels, H, W, C: tl.constexpr):
    """Offsets of pixels inside an image, and which of them are on it.

    They have 32 bits: 64 would take half of the registers.
    """
    inside = (y >= 0) & (y < H) & (x >= 0) & (x < W)
    return (y * W + x)[:, None] * C + channels[None, :], inside[:, None]


@triton.jit
def _convolve(image, weight, start, y, x, channels, rate, H, W, C: tl.constexpr):
    """``start`` plus the convolution of an image at a tile's pixels, in float32."""
    total = start
    for m in range(3):  # with all nine taps unrolled, the pixels would take all registers
        for n in tl.static_range(3):
            offsets, inside = _at(y + (m - 1) * rate, x + (n - 1) * rate, channels, H, W, C)
            factor = tl.load(weight + channels * 9 + 3 * m + n).to(tl.float32)
            pixels = tl.load(image + offsets, mask=inside, other=0).to(tl.float32)
            total += factor[None, :] * pixels
    return total


@triton.jit(do_not_specialize=_SIZES)
def _forward_kernel(
    x_ptr,
    weight,
    bias,
    rates,
    out,
    H,
    W,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    SIDE: tl.constexpr,
    BIAS: tl.constexpr,
    GELU: tl.constexpr,
    RATES: tl.constexpr,
):
    b, y, x = _tile(tl.program_id(0), H, W, SIDE)
    first = b * H * W * C
    channels = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    start = tl.zeros((SIDE * SIDE, BLOCK), tl.float32)
    if BIAS:
        start += tl.load(bias + channels).to(tl.float32)[None, :]
    total = tl.zeros((SIDE * SIDE, BLOCK), tl.float32)
    for r in range(RATES):
        rate = tl.load(rates + r)
        branch = _convolve(x_ptr + first, weight, start, y, x, channels, rate, H, W, C)
        total += gelu(branch) if GELU else silu(branch)
    offsets, inside = _at(y, x, channels, H, W, C)
    tl.store(out + first + offsets, total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=_SIZES)
def _branches_kernel(
    x_ptr,
    weight,
    bias,
    rates,
    grad,
    branches,
    partial,
    H,
    W,
    tiles,
    numel,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    SIDE: tl.constexpr,
    BIAS: tl.constexpr,
    GELU: tl.constexpr,
    LEARNS: tl.constexpr,
    RATES: tl.constexpr,
):
    channels = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = tl.arange(0, 16)
    start = tl.zeros((SIDE * SIDE, BLOCK), tl.float32)
    if BIAS:
        start += tl.load(bias + channels).to(tl.float32)[None, :]
    sums = tl.zeros((16, BLOCK), tl.float32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        b, y, x = _tile(tile, H, W, SIDE)
        first = b * H * W * C
        image = x_ptr + first
        offsets, inside = _at(y, x, channels, H, W, C)
        above = tl.load(grad + first + offsets, mask=inside, other=0).to(tl.float32)
        for r in range(RATES):
            rate = tl.load(rates + r)
            branch = _convolve(image, weight, start, y, x, channels, rate, H, W, C)
            of_branch = above * (gelu_slope(branch) if GELU else silu_slope(branch))
            target = branches + (numel.to(tl.int64) * r + first)
            tl.store(target + offsets, of_branch.to(branches.dtype.element_ty), mask=inside)
            if LEARNS:
                sums += tl.where(row[:, None] == 9, tl.sum(of_branch, 0)[None, :], 0)
                for m in range(3):
                    for n in tl.static_range(3):
                        at, on_map = _at(y + (m - 1) * rate, x + (n - 1) * rate, channels, H, W, C)
                        pixels = tl.load(image + at, mask=on_map, other=0).to(tl.float32)
                        of_tap = tl.sum(pixels * of_branch, 0)[None, :]
                        sums += tl.where(row[:, None] == 3 * m + n, of_tap, 0)
    if LEARNS:
        rows = tl.program_id(0) * 16 + row
        tl.store(partial + rows[:, None] * C + channels[None, :], sums)


@triton.jit(do_not_specialize=_SIZES)
def _input_kernel(
    branches,
    weight,
    rates,
    out,
    H,
    W,
    numel,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    SIDE: tl.constexpr,
    RATES: tl.constexpr,
):
    b, y, x = _tile(tl.program_id(0), H, W, SIDE)
    first = b * H * W * C
    channels = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((SIDE * SIDE, BLOCK), tl.float32)
    for r in range(RATES):
        # Dilation with a negative rate: the kernel turned by 180 degrees.
        rate = -tl.load(rates + r)
        image = branches + (numel.to(tl.int64) * r + first)
        total = _convolve(image, weight, total, y, x, channels, rate, H, W, C)
    offsets, inside = _at(y, x, channels, H, W, C)
    tl.store(out + first + offsets, total.to(out.dtype.element_ty), mask=inside)
