"""A mask in any of its forms, and the borders of bitmaps as chains of pixels."""

import numpy as np
import pycocotools.mask as mask_util
from scipy import ndimage

# Eight neighbours as (row, column), counter-clockwise in the picture from the right one.
_STEPS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))
_ALL = np.ones((3, 3), dtype=bool)


def _first_pixels(labels: np.ndarray) -> np.ndarray:
    """Flat index of the first pixel in reading order of every label from 1 on."""
    flat = labels.ravel()
    present = np.flatnonzero(flat)
    _, first = np.unique(flat[present], return_index=True)
    return present[first]


def _follow(inside: bytes, start: int, outside: int, steps: list[int]) -> list[int]:
    """Flat indices of the border's pixels, from `start` whose neighbour number `outside` is off.

    A pixel that the border passes twice, as in a line one pixel wide, is there twice.
    """
    direction = outside
    for _ in range(8):  # the last pixel of the border: clockwise, the first that is on
        direction = (direction - 1) % 8
        if inside[start + steps[direction]]:
            break
    else:
        return [start]
    last = start + steps[direction]
    chain, pixel = [], start
    while True:
        for turn in range(1, 9):
            towards = (direction + turn) % 8
            following = pixel + steps[towards]
            if inside[following]:
                break
        chain.append(pixel)
        if following == start and pixel == last:
            return chain
        pixel, direction = following, (towards + 4) % 8


def find_contours(mask: np.ndarray) -> tuple[list[np.ndarray], bool]:
    """All borders of a mask: around its pieces (8-connected), and around their holes.

    Args:
        mask: (H, W), on where it is not 0.

    Returns:
        arrays (n, 2) of integer x, y of the mask's own pixels along each border, counter-clockwise
        around pieces and clockwise around holes; and whether there are holes.
    """
    mask = np.asarray(mask) != 0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return [], False
    top, left = rows[0], columns[0]
    inside = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    width = inside.shape[1]
    steps = [row * width + column for row, column in _STEPS]
    pieces = ndimage.label(inside, _ALL)[0]
    starts = [(pixel, 4, pixel) for pixel in _first_pixels(pieces).tolist()]
    # The frame of padding makes label 1 the outside; the pixel left of a hole's first is on.
    holes = (_first_pixels(ndimage.label(~inside)[0])[1:] - 1).tolist()
    owners = pieces.ravel()[holes]
    starts += [(pixel, 0, starts[owner - 1][0]) for pixel, owner in zip(holes, owners, strict=True)]
    # Last pieces first, each followed by its holes, last first.
    starts.sort(key=lambda start: (-start[2], -start[1], -start[0]))
    buffer = inside.tobytes()
    chains = [np.array(_follow(buffer, pixel, side, steps)) for pixel, side, _ in starts]
    points = [np.stack([c % width - 1 + left, c // width - 1 + top], axis=1) for c in chains]
    return points, len(holes) > 0


class GenericMask:
    """A mask of one object, given as bitmap, polygons or RLE, seen as any of them.

    Attributes:
        polygons: list of flat arrays x0, y0, x1, y1, ...; from a bitmap, all of its borders.
        mask: (H, W) uint8.
        has_holes: whether `polygons` holds borders of holes.
    """

    def __init__(self, mask_or_polygons, height, width):
        self._mask = self._polygons = self._has_holes = None
        self.height, self.width = height, width
        m = mask_or_polygons
        if isinstance(m, dict):
            assert "counts" in m and "size" in m
            if isinstance(m["counts"], list):
                assert tuple(m["size"]) == (height, width), f"{m['size']}, target {height, width}"
                m = mask_util.frPyObjects(m, height, width)
            self._mask = mask_util.decode(m)
        elif isinstance(m, list):
            self._polygons = [np.asarray(polygon).reshape(-1) for polygon in m]
        elif isinstance(m, np.ndarray):
            assert m.shape[1] != 2, m.shape
            assert m.shape == (height, width), f"mask shape: {m.shape}, target: {height}, {width}"
            self._mask = m.astype("uint8")
        else:
            raise ValueError(f"GenericMask cannot handle object {m} of type '{type(m)}'")

    @property
    def mask(self):
        if self._mask is None:
            self._mask = self.polygons_to_mask(self._polygons)
        return self._mask

    @property
    def polygons(self):
        if self._polygons is None:
            self._polygons, self._has_holes = self.mask_to_polygons(self._mask)
        return self._polygons

    @property
    def has_holes(self):
        if self._has_holes is None and self._mask is not None:
            self._polygons, self._has_holes = self.mask_to_polygons(self._mask)
        return bool(self._has_holes)

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
