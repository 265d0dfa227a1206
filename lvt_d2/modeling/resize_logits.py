"""From the logits of a semantic head to those of the image's own pixels, in one step."""

import torch
import torch.nn.functional as F
from torch import Tensor

_PIXELS_AT_ONCE = 64  # of the new axis; they come from a short span of the old one


def resize_logits(
    logits: Tensor, stride: int, image_size: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Upsample by the stride, cut the padding off, resize: bilinear, without what lies between.

    The map at the network's size has many times the pixels of the others, and is used only to be
    resized again. Each of the two steps is a linear function of rows and one of columns, and so are
    both together.

    Args:
        logits: (K, H, W) at the stride.
        stride: whole number of pixels.
        image_size: height and width of the image inside the network's input.
        size: height and width that are wanted.

    Returns:
        (K, *size), which differs by rounding from two interpolations, in the type of ``logits``.
    """
    with torch.autocast(logits.device.type, enabled=False):
        rows, columns = (
            _weights(old, stride, of_image, new).to(logits.device)
            for old, of_image, new in zip(logits.shape[1:], image_size, size, strict=True)
        )
        K, _, W = logits.shape
        source = logits.float().contiguous()
        out = source.new_empty((K, *size))
        tall = source.new_empty((K, size[0], W))
        for part, span in _spans(rows):
            torch.matmul(rows[part, span], source[:, span], out=tall[:, part])
        tall, flat = tall.view(-1, W), out.view(-1, size[1])
        for part, span in _spans(columns):
            torch.mm(tall[:, span], columns[part, span].t(), out=flat[:, part])
        return out.to(logits.dtype)


def _weights(old: int, stride: int, of_image: int, new: int) -> Tensor:
    """What each new pixel of an axis is made of: (new, old)."""
    axis = torch.eye(old)[None]
    axis = F.interpolate(axis, scale_factor=stride, mode="linear", align_corners=False)
    axis = F.interpolate(axis[..., :of_image], size=new, mode="linear", align_corners=False)
    return axis[0].t().contiguous()


def _spans(weights: Tensor) -> list[tuple[slice, slice]]:
    """Pieces of the new axis, and the span of the old one that each is made of."""
    used = weights != 0
    first = used.int().argmax(dim=1).tolist()
    last = (weights.shape[1] - used.flip(1).int().argmax(dim=1)).tolist()
    pieces = []
    for start in range(0, len(weights), _PIXELS_AT_ONCE):
        stop = min(start + _PIXELS_AT_ONCE, len(weights))
        pieces.append((slice(start, stop), slice(first[start], last[stop - 1])))
    return pieces
