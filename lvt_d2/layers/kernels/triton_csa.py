"""Convolutional self-attention in two kernels forwards and three backwards.

Letters as in `lvt_d2.layers.csa`. Windows ``l`` are numbered over (B, h, w). Forwards, the first
kernel has a program for every tile of windows and head: it gathers the nine pixels one after the
other, and sums their products ``v_p`` into the nine outputs while the softmax over p runs along, as
in flash attention. The second kernel sums the 1, 2 or 4 outputs that lie on a pixel (a gather too,
so nothing is atomic) and projects the sum.

The backward pass needs the input, the logarithm of the softmax's denominator (a ninth of the
attention maps), and the folded map for the projection's weight; ``memory_efficient`` layers
keep only the input. Its kernels compute the gradients of products and logits; of the value
matrices; and of the input. The other gradients are plain matrix products of tensors that are in
memory anyway, which is what PyTorch's library is for.

Tested in Triton's interpreter; speed on a GPU has not been measured.
"""

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from lvt_d2.layers.kernels.common import in_autocast_dtype, needs_grad, without_autocast
from lvt_d2.layers.kernels.triton_common import on_device, padded, splits, wrong_channels
from lvt_d2.layers.kernels.triton_csa_kernels import (
    backward_input_kernel,
    backward_mix_kernel,
    backward_values_kernel,
    fold_kernel,
    mix_kernel,
)

# Windows of a tile, the least that a matrix product takes: the nine outputs (padded to 16) of 16
# windows and 32 channels are 8192 float32 sums, 64 for each of 128 threads.
WINDOWS = 16
# Pixels, or windows in the backward pass' plain products, of a tile.
ROWS = 32
# Columns of a weight that are on the chip at a time.
COLUMNS = 32
# Widths of heads: powers of two that a matrix product takes, and whose outputs fit the registers.
HEAD_CHANNELS = (16, 32, 64)


def csa(layer, x: Tensor) -> Tensor:
    """`CSA`'s output: (B, H, W, C) -> (B, H, W, C)."""
    tensors = in_autocast_dtype(
        x,
        layer.attention.weight,
        layer.attention.bias,
        layer.value_weight,
        layer.proj.weight,
        layer.proj.bias,
    )
    x, *weights = (t.contiguous() for t in tensors)
    with without_autocast(x):
        if needs_grad(x, *weights):
            return _Attention.apply(x, *weights, layer.num_heads, layer.memory_efficient)
        mixed, _ = _mix(x, *weights[:3], layer.num_heads)
        return _fold_and_project(mixed, x, *weights[3:])[0]


def why_not_csa(layer) -> str | None:
    """Why the kernels can't compute a `CSA`; None if they can."""
    C = layer.value_weight.shape[1]
    d = C // layer.num_heads
    if d not in HEAD_CHANNELS:
        return f"heads of {d} channels; the Triton kernel takes {HEAD_CHANNELS}"
    return wrong_channels(C)


class _Attention(torch.autograd.Function):
    """CSA with its projection; ``recompute`` keeps nothing but the input."""

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        attention: Tensor,
        bias: Tensor,
        values: Tensor,
        projection: Tensor,
        projection_bias: Tensor,
        num_heads: int,
        recompute: bool,
    ) -> Tensor:
        mixed, mass = _mix(x, attention, bias, values, num_heads)
        keep = not recompute
        out, folded = _fold_and_project(mixed, x, projection, projection_bias, keep)
        ctx.save_for_backward(
            x, attention, bias, values, projection, *((mass, folded) if keep else ())
        )
        ctx.num_heads = num_heads
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, attention, bias, values, projection, *kept = ctx.saved_tensors
        if kept:
            mass, folded = kept
        else:
            mixed, mass = _mix(x, attention, bias, values, ctx.num_heads)
            folded = _fold_and_project(mixed, x, projection, None, keep=True)[1]
            del mixed
        above = grad.flatten(0, 2)
        grad_projection = above.t() @ folded.flatten(0, 2)
        grad_folded = (above @ projection).view_as(x)

        scale = _scale(values, ctx.num_heads)
        products, logits, pooled = _backward_mix(
            x, attention, bias, values, mass, grad_folded, ctx.num_heads
        )
        grad_pooled = logits @ attention * scale
        return (
            _backward_input(products, grad_pooled, values, x) if ctx.needs_input_grad[0] else None,
            logits.t() @ pooled * scale,
            logits.sum(0) * scale,
            _backward_values(products, x, values) if ctx.needs_input_grad[3] else None,
            grad_projection,
            above.sum(0),
            None,
            None,
        )


def _scale(values: Tensor, num_heads: int) -> float:
    return (values.shape[1] // num_heads) ** -0.5


def _windows(x: Tensor) -> tuple[int, int, int]:
    """Windows along height and width, and of the whole batch."""
    h, w = (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2
    return h, w, x.shape[0] * h * w


def _head_constants(x: Tensor, num_heads: int) -> dict:
    """Compile-time constants of the kernels that have a program for every head."""
    C = x.shape[3]
    d = C // num_heads
    return {
        "HEADS": num_heads,
        "D": d,
        "C": C,
        "SCALE": d**-0.5,
        "BLOCK_C": padded(C),
        "WINDOWS": WINDOWS,
        "num_stages": 2,  # a third buffer of values does not fit beside two at 256 channels
    }


def _mix(
    x: Tensor, attention: Tensor, bias: Tensor, values: Tensor, num_heads: int
) -> tuple[Tensor, Tensor]:
    """Outputs of the windows.

    Returns:
        Outputs (L, 9q, C), and the logarithm of the softmax's denominators (L, heads, 9q), in
        float32.
    """
    h, w, L = _windows(x)
    mixed = x.new_empty(L, 9, x.shape[3])
    mass = x.new_empty(L, num_heads, 9, dtype=torch.float32)
    constants = _head_constants(x, num_heads)
    grid = (triton.cdiv(L, WINDOWS), num_heads)
    warps = max(4, constants["D"] // 8)  # the outputs' sums grow with the head
    with on_device(x):
        mix_kernel[grid](
            x,
            attention,
            bias,
            values,
            mixed,
            mass,
            *x.shape[1:3],
            h,
            w,
            L,
            **constants,
            num_warps=warps,
        )
    return mixed, mass


def _fold_and_project(
    mixed: Tensor, x: Tensor, projection: Tensor, bias: Tensor | None, keep: bool = False
) -> tuple[Tensor | None, Tensor | None]:
    """Sum the windows' outputs (L, 9, C) onto the pixels of a map like ``x``, and project them.

    Returns:
        The projection, None without a bias; and the sum, None unless it shall be kept.
    """
    C = x.shape[3]
    pixels = x.numel() // C
    h, w, _ = _windows(x)
    out = None if bias is None else torch.empty_like(x)
    folded = torch.empty_like(x) if keep else None
    with on_device(x):
        fold_kernel[(triton.cdiv(pixels, ROWS),)](
            mixed,
            projection,
            projection if bias is None else bias,
            x if out is None else out,
            x if folded is None else folded,
            *x.shape[1:3],
            h,
            w,
            pixels,
            C=C,
            BLOCK_C=padded(C),
            ROWS=ROWS,
            COLUMNS=COLUMNS,
            PROJECT=out is not None,
            KEEP=keep,
            num_warps=4,
            num_stages=2,
        )
    return out, folded


def _backward_mix(
    x: Tensor,
    attention: Tensor,
    bias: Tensor,
    values: Tensor,
    mass: Tensor,
    grad: Tensor,
    num_heads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients inside of the windows, given that of the folded map.

    Returns:
        Gradients of the products (L, 9p, C) and of the scaled logits (L, heads * 9q * 9p), and the
        pooled map (L, C).
    """
    h, w, L = _windows(x)
    products = x.new_empty(L, 9, x.shape[3])
    logits = x.new_empty(L, num_heads * 81)
    pooled = x.new_empty(L, x.shape[3])
    constants = _head_constants(x, num_heads)
    # Beside the nine gradients two attention maps are in registers: more threads than forwards.
    warps = max(8, constants["D"] // 4)
    with on_device(x):
        backward_mix_kernel[(triton.cdiv(L, WINDOWS), num_heads)](
            x,
            attention,
            bias,
            values,
            mass,
            grad,
            products,
            logits,
            pooled,
            *x.shape[1:3],
            h,
            w,
            L,
            **constants,
            num_warps=warps,
        )
    return products, logits, pooled


def _backward_values(products: Tensor, x: Tensor, values: Tensor) -> Tensor:
    """``sum_l g_lp x_lp^T`` for every p, of tiles gathered on the fly: (9, C, C).

    A library's product would need the gathered windows in memory, 2.25 times the map.
    """
    h, w, L = _windows(x)
    C = x.shape[3]
    blocks = triton.cdiv(C, 64)
    side = min(padded(C), 64)
    parts = splits(triton.cdiv(L, ROWS), 512 // (9 * blocks * blocks))
    partial = x.new_empty(parts, *values.shape, dtype=torch.float32)
    with on_device(x):
        backward_values_kernel[(parts, 9, blocks * blocks)](
            products,
            x,
            partial,
            *x.shape[1:3],
            h,
            w,
            L,
            C=C,
            SIDE=side,
            ROWS=ROWS,
            num_warps=4,
            num_stages=2,
        )
    return partial.sum(0).to(values.dtype)


def _backward_input(products: Tensor, grad_pooled: Tensor, values: Tensor, x: Tensor) -> Tensor:
    """Adjoint of gather and pooling: for every pixel what the windows on it send back."""
    h, w, L = _windows(x)
    C = x.shape[3]
    out = torch.empty_like(x)
    with on_device(x):
        backward_input_kernel[(triton.cdiv(L, ROWS), 4, triton.cdiv(C, COLUMNS))](
            products,
            grad_pooled,
            values,
            out,
            *x.shape[1:3],
            h,
            w,
            L,
            C=C,
            BLOCK_C=padded(C),
            ROWS=ROWS,
            COLUMNS=COLUMNS,
            num_warps=4,
            num_stages=2,
        )
    return out
