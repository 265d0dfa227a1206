"""Convolutional self-attention in chunks of windows, forwards and backwards.

Letters as in `lvt_d2.layers.csa`: positions ``p`` where values come from and ``q`` where outputs go
to, ``h w`` windows along height and width, ``L`` windows of a chunk. A chunk's windows, values and
attention stay in the cache. Gather and fold are each other's adjoint, so the backward pass needs no
code of its own for them; it keeps the input and the attention maps, and computes the rest again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lvt_d2.layers.kernels.common import in_autocast_dtype, needs_grad, without_autocast

POSITIONS = tuple((a, b) for a in range(3) for b in range(3))
# Of these positions every pixel has exactly one; they make up the 2x2 cell that is pooled.
CELL = (4, 5, 7, 8)
CPU_WINDOWS = 1024  # of a chunk: 2.3 MB of values at 64 channels in float32

# Layer to what identifies its parameters, and their position-first form.
_prepared: WeakKeyDictionary[nn.Module, tuple[list, tuple[Tensor, Tensor]]] = WeakKeyDictionary()


def csa(layer, x: Tensor) -> Tensor:
    """`CSA`'s output: (B, H, W, C) -> (B, H, W, C)."""
    x, weight, bias, values = in_autocast_dtype(
        x, layer.attention.weight, layer.attention.bias, layer.value_weight
    )
    x = x.contiguous()
    with without_autocast(x):
        if needs_grad(x, weight, bias, values):
            weight, bias = position_first(weight, bias, layer.num_heads)
            folded = _FoldedAttention.apply(x, weight, bias, values, layer.memory_efficient)
        else:
            weight, bias = _prepare(layer, weight, bias)
            folded = _forward(x, weight, bias, values)
    return layer.proj(folded)


def position_first(weight: Tensor, bias: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """Rows of the attention layer from (head, q, p) to (p, head, q), with the scale multiplied in.

    The softmax then runs along a strided axis, for which PyTorch has vector code; along a
    contiguous axis of nine numbers it is an order of magnitude slower.

    Args:
        weight: (heads * 81, C).
        bias: (heads * 81,).
        num_heads: heads.

    Returns:
        Weight and bias of the same shapes.
    """
    C = weight.shape[1]
    scale = (C // num_heads) ** -0.5
    weight = weight.view(num_heads, 9, 9, C).permute(2, 0, 1, 3).flatten(0, 2)
    bias = bias.view(num_heads, 9, 9).permute(2, 0, 1).flatten()
    return weight * scale, bias * scale


def _prepare(layer, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """`position_first`, computed once for as long as the parameters don't change."""
    if weight.is_inference():  # has no version to tell a change by
        return position_first(weight, bias, layer.num_heads)
    sources = (layer.attention.weight, layer.attention.bias)
    key = [(id(t), t.data_ptr(), t._version) for t in sources] + [weight.dtype, weight.device]
    if layer not in _prepared or _prepared[layer][0] != key:
        with torch.inference_mode(False), torch.no_grad():
            _prepared[layer] = (key, position_first(weight, bias, layer.num_heads))
    return _prepared[layer][1]


@dataclass(frozen=True)
class _Grid:
    """Geometry of windows of 3x3 pixels with stride 2 and a border of 1 on an H x W map."""

    H: int
    W: int

    @property
    def windows(self) -> tuple[int, int]:
        return (self.H + 1) // 2, (self.W + 1) // 2

    def chunks(self, batch: int, size: int) -> Iterator[tuple[slice, range]]:
        """Images and rows of windows of chunks of about ``size`` windows, in order."""
        h, w = self.windows
        images = max(1, size // (h * w))
        rows = h if images > 1 else max(1, min(h, size // w))
        for first in range(0, batch, images):
            for top in range(0, h, rows):
                yield slice(first, first + images), range(top, min(top + rows, h))

    def spans(self, rows: range, p: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Where position p of the windows in some rows meets the map.

        Returns:
            Windows (rows, counted from the chunk's first, and columns), and their pixels.
        """
        a, b = POSITIONS[p]
        windows_y, pixels_y = _span(rows.start, rows.stop, a, self.H)
        windows_x, pixels_x = _span(0, self.windows[1], b, self.W)
        return (windows_y, windows_x), (pixels_y, pixels_x)

    def pool_factor(self, rows: range, like: Tensor) -> Tensor | None:
        """Correction of the 2x2 mean at the border, where only the pixels inside count.

        Returns:
            (rows, w, 1) factors of a quarter of the sum; None where all are 1.
        """
        h, w = self.windows
        odd_y, odd_x = self.H % 2 and rows.stop == h, self.W % 2
        if not odd_y and not odd_x:
            return None
        factor = like.new_ones(len(rows), w, 1)
        if odd_y:
            factor[-1] *= 2
        if odd_x:
            factor[:, -1] *= 2
        return factor


def _span(start: int, stop: int, offset: int, size: int) -> tuple[slice, slice]:
    """Windows ``i`` of [start, stop) whose pixel ``2i + offset - 1`` is in [0, size), and those."""
    first = start + (2 * start + offset < 1)
    last = stop - (2 * (stop - 1) + offset - 1 >= size)
    pixel = 2 * first + offset - 1
    return slice(first - start, last - start), slice(pixel, pixel + 2 * (last - first), 2)


def _gather(x: Tensor, grid: _Grid, images: slice, rows: range, out: Tensor) -> Tensor:
    """Pixels of a chunk's windows, zeros outside of the map: ``out`` is (9, b, rows, w, C)."""
    source = x[images]
    for p in range(9):
        windows, pixels = grid.spans(rows, p)
        if out[p, :, windows[0], windows[1]].shape != out[p].shape:
            out[p].zero_()
        out[p, :, windows[0], windows[1]] = source[:, pixels[0], pixels[1]]
    return out


def _fold(parts: Tensor, grid: _Grid, images: slice, rows: range, out: Tensor) -> None:
    """Add a chunk's outputs (9, b, rows, w, C) to their pixels; chunks must come in order."""
    target = out[images]
    for p in (*CELL, 0, 1, 2, 3, 6):
        windows, pixels = grid.spans(rows, p)
        part = parts[p, :, windows[0], windows[1]]
        if p in CELL:  # the first that writes to these pixels
            target[:, pixels[0], pixels[1]] = part
        else:
            target[:, pixels[0], pixels[1]] += part


def _pool(gathered: Tensor, factor: Tensor | None) -> Tensor:
    """2x2 means: (9, b, rows, w, C) -> (b * rows * w, C)."""
    total = gathered[4] + gathered[5]
    total += gathered[7]
    total += gathered[8]
    total *= 0.25
    if factor is not None:
        total *= factor
    return total.flatten(0, 2)


def _attention(pooled: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Softmax over p: (L, C) -> (L, 9p, heads * 9q)."""
    logits = F.linear(pooled, weight, bias)
    return logits.unflatten(1, (9, -1)).softmax(1)


def _heads(num_heads: int, C: int) -> Iterator[tuple[slice, slice]]:
    """For every head its columns of the attention maps, and its channels."""
    d = C // num_heads
    for n in range(num_heads):
        yield slice(9 * n, 9 * n + 9), slice(d * n, d * n + d)


def _mix(attention: Tensor, values: Tensor, out: Tensor) -> Tensor:
    """``o_q = sum_p A[q, p] v_p``: (L, 9p, heads * 9q) and (9p, L, C) -> (9q, L, C)."""
    for columns, channels in _heads(attention.shape[2] // 9, values.shape[2]):
        maps = attention[:, :, columns].transpose(1, 2)
        mixed = torch.bmm(maps, values[:, :, channels].transpose(0, 1))
        out[:, :, channels] = mixed.transpose(0, 1)
    return out


def _chunk_size(x: Tensor) -> int:
    return CPU_WINDOWS if x.device.type == "cpu" else x.shape[0] * x.shape[1] * x.shape[2]


def _forward(x: Tensor, weight: Tensor, bias: Tensor, values: Tensor, keep=None) -> Tensor:
    """Everything before the projection; appends the attention maps of the chunks to ``keep``."""
    B, H, W, C = x.shape
    grid = _Grid(H, W)
    w = grid.windows[1]
    out = torch.empty_like(x)
    values = values.transpose(1, 2)
    buffer = products = None
    for images, rows in grid.chunks(B, _chunk_size(x)):
        shape = (9, len(x[images]), len(rows), w, C)
        if buffer is None or buffer.shape != shape:
            buffer = x.new_empty(shape)
            products = x.new_empty(9, buffer[0].numel() // C, C)
        gathered = _gather(x, grid, images, rows, buffer)
        maps = _attention(_pool(gathered, grid.pool_factor(rows, x)), weight, bias)
        if keep is not None:
            keep.append(maps)
        flat = gathered.view_as(products)
        torch.bmm(flat, values, out=products)
        # The windows' pixels are used up: their place takes the outputs.
        _fold(_mix(maps, products, out=flat).view(shape), grid, images, rows, out)
    return out


class _FoldedAttention(torch.autograd.Function):
    """CSA before its projection; ``recompute`` keeps nothing but the input."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, values: Tensor, recompute: bool):
        maps = None if recompute else []
        out = _forward(x, weight, bias, values, maps)
        ctx.save_for_backward(x, weight, bias, values, *(maps or ()))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight, bias, values, *kept = ctx.saved_tensors
        B, H, W, C = x.shape
        grid = _Grid(H, W)
        w = grid.windows[1]
        grad = grad.contiguous()
        grad_x = torch.empty_like(x)
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        grad_values = torch.zeros_like(values)
        for index, (images, rows) in enumerate(grid.chunks(B, _chunk_size(x))):
            shape = (9, len(x[images]), len(rows), w, C)
            gathered = _gather(x, grid, images, rows, x.new_empty(shape))
            factor = grid.pool_factor(rows, x)
            pooled = _pool(gathered, factor)
            maps = kept[index] if kept else _attention(pooled, weight, bias)
            flat = gathered.view(9, -1, C)
            grad_out = _gather(grad, grid, images, rows, x.new_empty(shape)).view(9, -1, C)

            products = torch.bmm(flat, values.transpose(1, 2))
            grad_products, grad_maps = _mix_backward(maps, products, grad_out)
            grad_values += torch.bmm(grad_products.transpose(1, 2), flat)
            grad_gathered = torch.bmm(grad_products, values, out=products).view(shape)

            grad_logits = torch._softmax_backward_data(grad_maps, maps, 1, maps.dtype).flatten(1)
            grad_weight.addmm_(grad_logits.t(), pooled)
            grad_bias += grad_logits.sum(0)
            grad_pooled = (grad_logits @ weight).view(shape[1:]).mul_(0.25)
            if factor is not None:
                grad_pooled *= factor
            for p in CELL:
                grad_gathered[p] += grad_pooled
            _fold(grad_gathered, grid, images, rows, grad_x)
        return grad_x, grad_weight, grad_bias, grad_values, None


def _mix_backward(maps: Tensor, values: Tensor, grad_out: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `_mix` with respect to values (9, L, C) and maps (L, 9p, heads * 9q)."""
    grad_values, grad_maps = torch.empty_like(values), torch.empty_like(maps)
    for columns, channels in _heads(maps.shape[2] // 9, values.shape[2]):
        of_out = grad_out[:, :, channels].transpose(0, 1)  # (L, 9q, d)
        of_values = torch.bmm(maps[:, :, columns], of_out)
        grad_values[:, :, channels] = of_values.transpose(0, 1)
        v = values[:, :, channels].transpose(0, 1)
        grad_maps[:, :, columns] = torch.bmm(v, of_out.transpose(1, 2))
    return grad_values, grad_maps
