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
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from lvt_d2.layers.kernels.common import in_autocast_dtype, needs_grad, without_autocast
from lvt_d2.layers.kernels.triton_common import (
    on_device,
    padded,
    product,
    splits,
    wrong_channels,
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
_SIZES = ["H", "W", "h", "w", "L", "pixels"]


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
        _mix_kernel[grid](
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
        _fold_kernel[(triton.cdiv(pixels, ROWS),)](
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
        _backward_mix_kernel[(triton.cdiv(L, WINDOWS), num_heads)](
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
        _backward_values_kernel[(parts, 9, blocks * blocks)](
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
        _backward_input_kernel[(triton.cdiv(L, ROWS), 4, triton.cdiv(C, COLUMNS))](
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


@triton.jit
def _image(first, h, w):
    """Image of a tile's first window, in 64 bits.

    A tile's offsets are counted from its first window or image, and have 32 bits: those of the nine
    outputs would take all registers with 64.
    """
    return (first // (h * w)).to(tl.int64)


@triton.jit
def _window(number, first, h, w):
    """Image (counted from that of the first), row and column of windows."""
    return number // (h * w) - first // (h * w), number // w % h, number % w


@triton.jit
def _pixel(b, i, j, p, H, W):
    """Number of the pixel at position p of windows, and whether it is on the map."""
    y = 2 * i + p // 3 - 1
    x = 2 * j + p % 3 - 1
    return (b * H + y) * W + x, (y >= 0) & (y < H) & (x >= 0) & (x < W)


@triton.jit
def _load_pixels(x, b, i, j, p, valid, H, W, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """Pixels at position p of windows: (windows, channels), zeros outside."""
    c = tl.arange(0, BLOCK_C)
    pixel, inside = _pixel(b, i, j, p, H, W)
    mask = (inside & valid)[:, None] & (c < C)[None, :]
    return tl.load(x + pixel[:, None] * C + c[None, :], mask=mask, other=0)


@triton.jit
def _cell_size(i, j, H, W):
    """Pixels of the 2x2 cells that are on the map."""
    return tl.minimum(H - 2 * i, 2) * tl.minimum(W - 2 * j, 2)


@triton.jit
def _pool(x, b, i, j, valid, H, W, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """Means of the 2x2 cells that windows begin with, rounded as the map is."""
    total = _load_pixels(x, b, i, j, 4, valid, H, W, C, BLOCK_C).to(tl.float32)
    total += _load_pixels(x, b, i, j, 5, valid, H, W, C, BLOCK_C)
    total += _load_pixels(x, b, i, j, 7, valid, H, W, C, BLOCK_C)
    total += _load_pixels(x, b, i, j, 8, valid, H, W, C, BLOCK_C)
    return (total / _cell_size(i, j, H, W)[:, None]).to(x.dtype.element_ty)


@triton.jit
def _product_of(pixels, values, head, p, C: tl.constexpr, D: tl.constexpr, BLOCK_C: tl.constexpr):
    """A head's products ``V_p x_p``: (windows, d)."""
    c = tl.arange(0, BLOCK_C)
    rows = p * C + head * D + tl.arange(0, D)
    matrix = tl.load(
        values + rows[None, :] * C + c[:, None],
        mask=(c < C)[:, None],
        other=0,
    )
    return product(pixels, matrix)


@triton.jit
def _logits(
    pooled, weight, bias, head, p, SCALE: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr
):
    """A head's logits of position p for all q: (windows, 16), zeros behind the ninth."""
    c = tl.arange(0, BLOCK_C)
    q = tl.arange(0, 16)
    rows = head * 81 + q * 9 + p
    matrix = tl.load(
        weight + rows[None, :] * C + c[:, None], mask=(c < C)[:, None] & (q < 9)[None, :], other=0
    )
    start = tl.load(bias + rows, mask=q < 9, other=0).to(tl.float32)
    return (product(pooled, matrix) + start[None, :]) * SCALE


@triton.jit(do_not_specialize=_SIZES)
def _mix_kernel(
    x,
    attention,
    bias,
    values,
    mixed,
    mass,
    H,
    W,
    h,
    w,
    L,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    SCALE: tl.constexpr,
    BLOCK_C: tl.constexpr,
    WINDOWS: tl.constexpr,
):
    head = tl.program_id(1)
    first = tl.program_id(0) * WINDOWS
    local = tl.arange(0, WINDOWS)
    valid = first + local < L
    b, i, j = _window(first + local, first, h, w)
    x += _image(first, h, w) * H * W * C
    pooled = _pool(x, b, i, j, valid, H, W, C, BLOCK_C)
    highest = tl.full((WINDOWS, 16), float("-inf"), tl.float32)
    total = tl.zeros((WINDOWS, 16), tl.float32)
    outputs = tl.zeros((WINDOWS, 16, D), tl.float32)
    for p in range(9):
        logits = _logits(pooled, attention, bias, head, p, SCALE, C, BLOCK_C)
        pixels = _load_pixels(x, b, i, j, p, valid, H, W, C, BLOCK_C)
        v = _product_of(pixels, values, head, p, C, D, BLOCK_C)
        before = highest
        highest = tl.maximum(before, logits)
        keep = tl.exp(before - highest)
        weight = tl.exp(logits - highest)
        total = total * keep + weight
        outputs = outputs * keep[:, :, None] + weight[:, :, None] * v[:, None, :]
    outputs = outputs / total[:, :, None]
    q = tl.arange(0, 16)
    mask = valid[:, None] & (q < 9)[None, :]
    rows = local[:, None] * 9 + q[None, :]
    channels = head * D + tl.arange(0, D)
    tl.store(
        mixed + first.to(tl.int64) * 9 * C + rows[:, :, None] * C + channels[None, None, :],
        outputs.to(mixed.dtype.element_ty),
        mask=mask[:, :, None],
    )
    rows = (local * HEADS + head)[:, None] * 9 + q[None, :]
    tl.store(mass + first.to(tl.int64) * HEADS * 9 + rows, highest + tl.log(total), mask=mask)


@triton.jit(do_not_specialize=_SIZES)
def _fold_kernel(
    mixed,
    projection,
    bias,
    out,
    folded,
    H,
    W,
    h,
    w,
    pixels,
    C: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PROJECT: tl.constexpr,
    KEEP: tl.constexpr,
):
    first = tl.program_id(0) * ROWS
    local = tl.arange(0, ROWS)
    valid = first + local < pixels
    image = first // (H * W)
    mixed += image.to(tl.int64) * h * w * 9 * C
    b = (first + local) // (H * W) - image
    y, x = (first + local) // W % H, (first + local) % W
    c = tl.arange(0, BLOCK_C)
    on_channel = (c < C)[None, :]
    total = tl.zeros((ROWS, BLOCK_C), tl.float32)
    # An even row is the middle of one window; an odd one is the end of a window, and the beginning
    # of the next if there is one. So for columns.
    for later in tl.static_range(4):
        i, j = y // 2 + later // 2, x // 2 + later % 2
        a = 1 + y % 2 - 2 * (later // 2)
        e = 1 + x % 2 - 2 * (later % 2)
        rows = ((b * h + i) * w + j) * 9 + 3 * a + e
        mask = valid & (a >= 0) & (e >= 0) & (i < h) & (j < w)
        total += tl.load(
            mixed + rows[:, None] * C + c[None, :], mask=mask[:, None] & on_channel, other=0
        ).to(tl.float32)
    sums = total.to(mixed.dtype.element_ty)
    start = first.to(tl.int64) * C
    offsets = local[:, None] * C
    if KEEP:
        tl.store(folded + start + offsets + c[None, :], sums, mask=valid[:, None] & on_channel)
    if PROJECT:
        for column in range(0, C, COLUMNS):
            n = column + tl.arange(0, COLUMNS)
            matrix = tl.load(
                projection + n[None, :] * C + c[:, None],
                mask=(n < C)[None, :] & (c < C)[:, None],
                other=0,
            )
            offset = tl.load(bias + n, mask=n < C, other=0).to(tl.float32)
            result = product(sums, matrix) + offset[None, :]
            tl.store(
                out + start + offsets + n[None, :],
                result.to(out.dtype.element_ty),
                mask=valid[:, None] & (n < C)[None, :],
            )


@triton.jit(do_not_specialize=_SIZES)
def _backward_mix_kernel(
    x,
    attention,
    bias,
    values,
    mass,
    grad,
    products,
    logits,
    pools,
    H,
    W,
    h,
    w,
    L,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    SCALE: tl.constexpr,
    BLOCK_C: tl.constexpr,
    WINDOWS: tl.constexpr,
):
    head = tl.program_id(1)
    first = tl.program_id(0) * WINDOWS
    local = tl.arange(0, WINDOWS)
    valid = first + local < L
    b, i, j = _window(first + local, first, h, w)
    long = first.to(tl.int64)
    x += _image(first, h, w) * H * W * C
    grad += _image(first, h, w) * H * W * C
    products += long * 9 * C
    logits += long * HEADS * 81
    c = tl.arange(0, BLOCK_C)
    channels = head * D + tl.arange(0, D)
    pooled = _pool(x, b, i, j, valid, H, W, C, BLOCK_C)
    pool_mask = valid[:, None] & (c < C)[None, :] & (head == 0)
    tl.store(pools + long * C + local[:, None] * C + c[None, :], pooled, mask=pool_mask)

    q = tl.arange(0, 16)
    mask = valid[:, None] & (q < 9)[None, :]
    rows = (local * HEADS + head)[:, None] * 9 + q[None, :]
    denominators = tl.load(mass + long * HEADS * 9 + rows, mask=mask, other=0)
    pixel, inside = _pixel(b[:, None], i[:, None], j[:, None], q[None, :], H, W)
    above = tl.load(
        grad + pixel[:, :, None] * C + channels[None, None, :],
        mask=(mask & inside)[:, :, None],
        other=0,
    ).to(tl.float32)

    maps = tl.zeros((WINDOWS, 16, 16), tl.float32)  # windows, q, p
    of_maps = tl.zeros((WINDOWS, 16, 16), tl.float32)
    inner = tl.zeros((WINDOWS, 16), tl.float32)
    here = tl.arange(0, 16)[None, None, :]
    for p in range(9):
        scores = _logits(pooled, attention, bias, head, p, SCALE, C, BLOCK_C)
        a = tl.where(mask, tl.exp(scores - denominators), 0)
        pixels = _load_pixels(x, b, i, j, p, valid, H, W, C, BLOCK_C)
        v = _product_of(pixels, values, head, p, C, D, BLOCK_C)
        of_v = tl.sum(a[:, :, None] * above, 1)
        tl.store(
            products + (local * 9 + p)[:, None] * C + channels[None, :],
            of_v.to(products.dtype.element_ty),
            mask=valid[:, None],
        )
        of_a = tl.sum(above * v[:, None, :], 2)
        inner += a * of_a
        maps += tl.where(here == p, a[:, :, None], 0)
        of_maps += tl.where(here == p, of_a[:, :, None], 0)
    of_logits = maps * (of_maps - inner[:, :, None])
    tl.store(
        logits + rows[:, :, None] * 9 + here,
        of_logits.to(logits.dtype.element_ty),
        mask=mask[:, :, None] & (here < 9),
    )


@triton.jit(do_not_specialize=_SIZES)
def _backward_values_kernel(
    products,
    x,
    partial,
    H,
    W,
    h,
    w,
    L,
    C: tl.constexpr,
    SIDE: tl.constexpr,
    ROWS: tl.constexpr,
):
    part, p = tl.program_id(0), tl.program_id(1)
    blocks = tl.cdiv(C, SIDE)
    m = tl.program_id(2) // blocks * SIDE + tl.arange(0, SIDE)  # channels of the product
    n = tl.program_id(2) % blocks * SIDE + tl.arange(0, SIDE)  # of the pixel
    total = tl.zeros((SIDE, SIDE), tl.float32)
    local = tl.arange(0, ROWS)
    for skipped in range(0, L, tl.num_programs(0) * ROWS):
        first = skipped + part * ROWS
        valid = first + local < L
        b, i, j = _window(first + local, first, h, w)
        pixel, inside = _pixel(b, i, j, p, H, W)
        above = tl.load(
            products + first.to(tl.int64) * 9 * C + (local * 9 + p)[None, :] * C + m[:, None],
            mask=valid[None, :] & (m < C)[:, None],
            other=0,
        )
        pixels = tl.load(
            x + _image(first, h, w) * H * W * C + pixel[:, None] * C + n[None, :],
            mask=(inside & valid)[:, None] & (n < C)[None, :],
            other=0,
        )
        total += product(above, pixels)
    rows = (part * 9 + p) * C + m
    tl.store(
        partial + rows[:, None] * C + n[None, :], total, mask=(m < C)[:, None] & (n < C)[None, :]
    )


@triton.jit(do_not_specialize=_SIZES)
def _backward_input_kernel(
    products,
    grad_pooled,
    values,
    out,
    H,
    W,
    h,
    w,
    L,
    C: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    # Pixels of one parity of row and column meet the same positions of windows, and so the same
    # value matrices: a program has the pixels of one parity, in the 2x2 cells of some windows.
    odd_y, odd_x = tl.program_id(1) // 2, tl.program_id(1) % 2
    first = tl.program_id(0) * ROWS
    local = tl.arange(0, ROWS)
    valid = first + local < L
    b, i, j = _window(first + local, first, h, w)
    image = _image(first, h, w)
    products += image * h * w * 9 * C
    c = tl.arange(0, BLOCK_C)
    n = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    on_channel = (n < C)[None, :]
    total = tl.load(
        grad_pooled + first.to(tl.int64) * C + local[:, None] * C + n[None, :],
        mask=valid[:, None] & on_channel,
        other=0,
    ).to(tl.float32)
    total = total / _cell_size(i, j, H, W)[:, None]
    for later in range((1 + odd_y) * (1 + odd_x)):
        later_y, later_x = later // (1 + odd_x), later % (1 + odd_x)
        p = 3 * (1 + odd_y - 2 * later_y) + 1 + odd_x - 2 * later_x
        window = (b * h + i + later_y) * w + j + later_x
        mask = valid & (i + later_y < h) & (j + later_x < w)
        above = tl.load(
            products + (window * 9 + p)[:, None] * C + c[None, :],
            mask=mask[:, None] & (c < C)[None, :],
            other=0,
        )
        matrix = tl.load(
            values + (p * C + c)[:, None] * C + n[None, :],
            mask=(c < C)[:, None] & on_channel,
            other=0,
        )
        total += product(above, matrix)
    y, x = 2 * i + odd_y, 2 * j + odd_x
    rows = (b * H + y) * W + x
    out += image * H * W * C
    mask = (valid & (y < H) & (x < W))[:, None] & on_channel
    tl.store(out + rows[:, None] * C + n[None, :], total.to(out.dtype.element_ty), mask=mask)
