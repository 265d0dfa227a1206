"""A mask in any of its forms, and the borders of bitmaps as chains of pixels."""

from functools import cached_property

import numpy as np
import pycocotools.mask as mask_util
from scipy import ndimage

# Eight neighbours as (row, column), counter-clockwise in the picture from the right one.
_STEPS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))
# Where a border goes on from a pixel that was entered in a direction: to the first neighbour that
# is on, counter-clockwise from where it came. Rows: the neighbours, 1 bit each; columns: direction.
_TURNS = [
    [next((d % 8 for d in range(k + 5, k + 13) if on >> d % 8 & 1), None) for k in range(8)]
    for on in range(256)
]


def _first_pixels(labels: np.ndarray) -> list[int]:
    """Flat index of the first pixel in reading order of every label from 1 on."""
    present = np.flatnonzero(labels)
    return present[np.unique(labels.ravel()[present], return_index=True)[1]].tolist()


def _follow(neighbours: bytes, start: int, direction: int, steps: list[int]) -> list[int]:
    """Flat indices of the border's pixels, from `start` as if entered in `direction`.

    A pixel that the border passes twice, as in a line one pixel wide, is there twice.
    """
    first = start, _TURNS[neighbours[start]][direction]
    chain, (pixel, towards) = [start], first
    while towards is not None:
        pixel += steps[towards]
        towards = _TURNS[neighbours[pixel]][towards]
        if (pixel, towards) == first:
            break
        chain.append(pixel)
    return chain


def find_contours(mask: np.ndarray) -> tuple[list[np.ndarray], bool]:
    """All borders of a mask: around its pieces (8-connected), and around their holes.

    Args:
        mask: (H, W), on where it is not 0.

    Returns:
        arrays (n, 2) of integer x, y of the mask's own pixels along each border, counter-clockwise
        around pieces and clockwise around holes; and whether there are holes.
    """
    mask = np.asarray(mask) != 0
    found = ndimage.find_objects(mask.view("int8"))
    if not found:
        return [], False
    inside = np.pad(mask[found[0]], 1)
    top, left = (part.start - 1 for part in found[0])
    width = inside.shape[1]
    steps = [row * width + column for row, column in _STEPS]
    shifted = [np.roll(inside.view("uint8"), -step) << bit for bit, step in enumerate(steps)]
    neighbours = np.sum(shifted, axis=0, dtype="uint8").tobytes()
    pieces, outside = ndimage.label(inside, np.ones((3, 3)))[0], ndimage.label(~inside)[0]
    firsts = _first_pixels(pieces)
    # As (first pixel of the piece, direction that comes from a pixel that is off, start).
    starts = [(pixel, 0, pixel) for pixel in firsts]
    # The frame of padding makes label 1 the outside; the pixel left of a hole's first is on.
    starts += [(firsts[pieces.flat[k - 1] - 1], 4, k - 1) for k in _first_pixels(outside)[1:]]
    # Last pieces first, each followed by its holes, last first.
    starts.sort(key=lambda start: (-start[0], start[1], -start[2]))
    chains = [np.array(_follow(neighbours, pixel, way, steps)) for _, way, pixel in starts]
    points = [np.stack([c % width + left, c // width + top], axis=1) for c in chains]
    return points, len(starts) > len(firsts)


class GenericMask:
    """A mask of one object, given as bitmap, polygons or RLE, seen as any of them.

    Attributes:
        polygons: list of flat arrays x0, y0, x1, y1, ...; from a bitmap, all of its borders.
        mask: (H, W) uint8.
        has_holes: whether `polygons` holds borders of holes.
    """

    def __init__(self, mask_or_polygons, height, width):
        self.height, self.width = height, width
        m = mask_or_polygons
        if isinstance(m, dict):
            assert "counts" in m and "size" in m
            if isinstance(m["counts"], list):
                assert tuple(m["size"]) == (height, width), f"{m['size']}, target {height, width}"
                m = mask_util.frPyObjects(m, height, width)
            self.mask = mask_util.decode(m)
        elif isinstance(m, list):
            self.polygons, self.has_holes = [np.asarray(p).reshape(-1) for p in m], False
        elif isinstance(m, np.ndarray):
            assert m.shape[1] != 2, m.shape
            assert m.shape == (height, width), f"mask shape: {m.shape}, target: {height}, {width}"
            self.mask = m.astype("uint8")
        else:
            raise ValueError(f"GenericMask cannot handle object {m} of type '{type(m)}'")

    @cached_property
    def mask(self):
        return self.polygons_to_mask(self.polygons)

    @cached_property
    def polygons(self):
        polygons, self.has_holes = self.mask_to_polygons(self.mask)
        return polygons

    @cached_property
    def has_holes(self):
        self.polygons, has_holes = self.mask_to_polygons(self.mask)
        return has_holes

    def mask_to_polygons(self, mask):
        """Borders through the centres of the mask's outermost pixels, and whether it has holes."""
        borders, has_holes = find_contours(mask)
        return [(b + 0.5).reshape(-1) for b in borders if len(b) >= 3], has_holes

    def polygons_to_mask(self, polygons):
        rle = mask_util.frPyObjects(polygons, self.height, self.width)
        return mask_util.decode(mask_util.merge(rle))

    def area(self):
        return self.mask.sum()

    def bbox(self):
        """Array x0, y0, x1, y1 around the polygons."""
        rle = mask_util.frPyObjects(self.polygons, self.height, self.width)
        x, y, width, height = mask_util.toBbox(mask_util.merge(rle))
        return np.array([x, y, x + width, y + height])
