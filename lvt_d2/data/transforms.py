"""Resizing with the arithmetic that the published weights were trained and tested with.

Detectron2 resizes with Pillow, which antialiases when it shrinks and rounds after each axis. Here
a pixel is the bilinear mix of its four neighbours around half-pixel centres, with 11-bit integer
weights and one rounding, which gives the published network input bit by bit. Labels take the
nearest pixel by the floor rule.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data.transforms import Augmentation, NoOpTransform, Transform

from lvt_d2.errors import ConfigError

_WEIGHT_BITS = 11
_ROWS_AT_ONCE = 64  # rows whose 32-bit intermediates stay in the cache


def _neighbours(size: int, new_size: int, one_sided_border: bool) -> tuple[np.ndarray, ...]:
    """Indices and integer weights of the two pixels that each new pixel mixes along one axis."""
    centres = ((np.arange(new_size) + 0.5) / (new_size / size) - 0.5).astype(np.float32)
    low = np.floor(centres)
    fraction = centres - low
    if one_sided_border:
        fraction[(low < 0) | (low >= size - 1)] = 0
    scale = np.float32(1 << _WEIGHT_BITS)
    low = low.astype(np.int64)
    return (
        low.clip(0, size - 1),
        (low + 1).clip(0, size - 1),
        np.rint((1 - fraction) * scale).astype(np.int32),
        np.rint(fraction * scale).astype(np.int32),
    )


def resize_bilinear_uint8(image: np.ndarray, new_h: int, new_w: int) -> np.ndarray:
    """Bilinear resize in 8-bit integer arithmetic: half-pixel centres, no antialiasing.

    Args:
        image: (H, W) or (H, W, C), uint8.
        new_h: new height, in pixels.
        new_w: new width, in pixels.

    Returns:
        (new_h, new_w) or (new_h, new_w, C), uint8; in memory C comes first, as models want it.
    """
    height, width = image.shape[:2]
    columns = _neighbours(width, new_w, one_sided_border=True)
    rows = _neighbours(height, new_h, one_sided_border=False)
    planes = image.reshape(height, width, -1).transpose(2, 0, 1)
    result = np.empty((len(planes), new_h, new_w), np.uint8)
    mixed = np.empty((height, new_w), np.int32)
    for plane, target in zip(planes, result, strict=True):
        _mix_columns(plane, columns, out=mixed)
        _mix_rows(mixed, rows, out=target)
    return result.transpose(1, 2, 0).reshape(new_h, new_w, *image.shape[2:])


def _mix_columns(plane: np.ndarray, columns: tuple[np.ndarray, ...], out: np.ndarray) -> None:
    """Resize (H, W) uint8 along the rows to (H, new_w) int32 with seven fraction bits.

    Four of the eleven fraction bits go, so that the next product fits 32 bits.
    """
    x0, x1, a0, a1 = columns
    for start in range(0, len(plane), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        pixels = plane[part].astype(np.int32)
        np.multiply(pixels.take(x0, axis=1), a0, out=out[part])
        right = pixels.take(x1, axis=1)
        right *= a1
        out[part] += right
        out[part] >>= 4


def _mix_rows(mixed: np.ndarray, rows: tuple[np.ndarray, ...], out: np.ndarray) -> None:
    """Resize what `_mix_columns` returns to (new_h, new_w) uint8.

    Each of the two products loses its lower 16 bits before they are added. One of them has to be
    masked for this; the shift drops those of the other.
    """
    y0, y1, b0, b1 = rows
    b0, b1 = b0[:, None], b1[:, None]
    for start in range(0, len(out), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        total = mixed.take(y0[part], axis=0)
        total *= b0[part]
        total &= -(1 << 16)
        lower = mixed.take(y1[part], axis=0)
        lower *= b1[part]
        total += lower
        total += 2 << 16
        total >>= 18
        out[part] = total


def resize_nearest(labels: np.ndarray, new_h: int, new_w: int) -> np.ndarray:
    """Nearest-pixel resize of the first two axes: pixel ``i`` takes ``floor(i * old / new)``."""
    height, width = labels.shape[:2]
    rows = np.minimum(np.arange(new_h) * (1 / (new_h / height)), height - 1).astype(np.int64)
    columns = np.minimum(np.arange(new_w) * (1 / (new_w / width)), width - 1).astype(np.int64)
    return labels.take(columns, axis=1).take(rows, axis=0)


class BilinearResizeTransform(Transform):
    """Resize to a fixed size: images bilinearly, labels by the nearest pixel.

    Args:
        h: height that comes in, in pixels.
        w: width that comes in, in pixels.
        new_h: height that goes out, in pixels.
        new_w: width that goes out, in pixels.
    """

    def __init__(self, h: int, w: int, new_h: int, new_w: int):
        super().__init__()
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Resize (H, W) or (H, W, C); 8-bit images are rounded once, others are not rounded."""
        self._check(img)
        if img.dtype == np.uint8:
            return resize_bilinear_uint8(img, self.new_h, self.new_w)
        planes = torch.from_numpy(np.ascontiguousarray(img)).reshape(self.h, self.w, -1)
        planes = F.interpolate(
            planes.permute(2, 0, 1)[None],
            (self.new_h, self.new_w),
            mode="bilinear",
            align_corners=False,
        )
        return planes[0].permute(1, 2, 0).reshape(self.new_h, self.new_w, *img.shape[2:]).numpy()

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize labels (H, W) of any type, keeping their values."""
        self._check(segmentation)
        return resize_nearest(segmentation, self.new_h, self.new_w)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scale (N, 2) points x, y in pixels."""
        factors = np.asarray([self.new_w / self.w, self.new_h / self.h], dtype=np.float32)
        return coords * factors

    def inverse(self) -> "BilinearResizeTransform":
        """The resize back to the size that came in."""
        return BilinearResizeTransform(self.new_h, self.new_w, self.h, self.w)

    def _check(self, image: np.ndarray) -> None:
        if image.shape[:2] != (self.h, self.w):
            raise ValueError(
                f"this resize was made for {self.h}x{self.w} (height x width), not for an image of "
                f"shape {image.shape}; make a new one with get_transform(image)"
            )


def resize_transform(image: np.ndarray, new_h: int, new_w: int) -> Transform:
    """The bilinear resize of ``image`` (H, W[, C]) to a size; nothing where it has that size."""
    h, w = image.shape[:2]
    if (h, w) == (new_h, new_w):
        return NoOpTransform()
    return BilinearResizeTransform(h, w, new_h, new_w)


class ResizeKeepRatio(Augmentation):
    """Resize so that the short side has a drawn length and the long side stays within a limit.

    Both sides are multiplied by ``min(short / min(h, w), max_size / max(h, w))`` and rounded half
    up, the rule of the published pipeline.

    Args:
        short_edge: lengths in pixels: ``(low, high)``, both included, for ``"range"``, a choice of
            lengths for ``"choice"``; one integer fixes the length.
        max_size: limit of the long side, in pixels.
        sample_style: ``"range"`` (uniform integers, the published one) or ``"choice"``.

    Raises:
        ConfigError: an argument can't be what is meant.
    """

    def __init__(
        self,
        short_edge: int | Sequence[int],
        max_size: int = 1333,
        sample_style: str = "range",
    ):
        super().__init__()
        if sample_style not in ("range", "choice"):
            raise ConfigError(f"sample_style is {sample_style!r}; expected 'range' or 'choice'")
        lengths = (short_edge,) * 2 if isinstance(short_edge, int) else tuple(short_edge)
        if sample_style == "range" and (len(lengths) != 2 or lengths[0] > lengths[1]):
            raise ConfigError(
                f"short_edge is {lengths}; a range is (low, high) with low <= high, in pixels"
            )
        if not lengths or min(lengths) < 1 or max_size < 1:
            raise ConfigError(
                f"short_edge is {lengths} and max_size {max_size}; both must be at least 1 pixel"
            )
        self.short_edge = lengths
        self.max_size = max_size
        self.sample_style = sample_style

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw a length and make the transform for ``image`` (H, W[, C])."""
        if self.sample_style == "range":
            short = np.random.randint(self.short_edge[0], self.short_edge[1] + 1)
        else:
            short = np.random.choice(self.short_edge)
        h, w = image.shape[:2]
        return resize_transform(image, *self.output_size(h, w, int(short), self.max_size))

    @staticmethod
    def output_size(h: int, w: int, short: int, max_size: int) -> tuple[int, int]:
        """Height and width after the resize; no side falls under 1 pixel."""
        scale = min(max_size / max(h, w), short / min(h, w))
        return max(int(h * scale + 0.5), 1), max(int(w * scale + 0.5), 1)
