"""The kernels of `triton_csa`, which says what they do, and which starts them."""

import triton
import triton.language as tl

from lvt_d2.layers.kernels.triton_common import product

_SIZES = ["H", "W", "h", "w", "L", "pixels"]


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
def mix_kernel(
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
    """A tile of windows, one head: outputs of the windows, and logarithms of denominators."""
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
def fold_kernel(
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
    """A tile of pixels: the sum of the windows' outputs on them, and its projection."""
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
def backward_mix_kernel(
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
    """A tile of windows, one head: gradients of products and logits; and the pooled map."""
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
def backward_values_kernel(
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
    """One position, part of the windows: a block of the value matrix' gradient."""
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
def backward_input_kernel(
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
    """Pixels of one parity in the cells of a tile of windows: their gradient."""
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
