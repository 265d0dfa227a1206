"""Mix-token: a box of every image's embedding is replaced by another image's.

It is CutMix after the first patch embedding. Boxes live on the grid of the last map, so that
every token of the output belongs to one of the two images as a whole.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Box(NamedTuple):
    """A half-open range of rows and columns of a grid, in cells."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        """Number of cells inside."""
        return (self.bottom - self.top) * (self.right - self.left)

    def mask(self, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
        """True inside of the box: (height, width)."""
        rows = torch.arange(height, device=device)
        columns = torch.arange(width, device=device)
        rows = (rows >= self.top) & (rows < self.bottom)
        columns = (columns >= self.left) & (columns < self.right)
        return rows[:, None] & columns


class BoxSampler:
    """Draws the boxes of mix-token, reproducibly.

    ``lambda ~ Beta(1, 1)``; the sides are the grid's times ``sqrt(1 - lambda)``, the centre is
    uniform, what lies outside of the grid is cut off.

    Args:
        seed: of this sampler's own generator, 0 to 2**32 - 1. Processes that train together need
            different ones. None takes PyTorch's initial seed, which differs already where every
            process has called ``torch.manual_seed`` with its own.
    """

    def __init__(self, seed: int | None = None):
        self.seed(seed)

    def seed(self, seed: int | None = None) -> None:
        """Start anew from a seed, as the constructor does."""
        if seed is None:
            seed = torch.initial_seed() % 2**32
        # The generator of NumPy's old interface: its sequence is frozen, and the published one.
        self._random = np.random.RandomState(seed)

    def __call__(self, height: int, width: int) -> Box:
        """A box on a grid of ``height`` x ``width`` cells; it may be empty."""
        side = math.sqrt(1 - self._random.beta(1, 1))
        half_height, half_width = int(height * side) // 2, int(width * side) // 2
        row, column = self._random.randint(height), self._random.randint(width)
        return Box(
            max(row - half_height, 0),
            max(column - half_width, 0),
            min(row + half_height, height),
            min(column + half_width, width),
        )

    def state_dict(self) -> dict[str, Any]:
        """Where the sequence stands, in types that ``torch.load(weights_only=True)`` reads."""
        _, key, position, has_gauss, cached = self._random.get_state()
        return {
            "key": torch.from_numpy(key.astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached_gaussian": float(cached),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self._random.set_state(
            (
                "MT19937",
                state["key"].numpy().astype(np.uint32),
                state["position"],
                state["has_gauss"],
                state["cached_gaussian"],
            )
        )


def mix(x: Tensor, mask: Tensor) -> Tensor:
    """Replace the masked part of every image by that of the image at the batch's other end.

    It is its own inverse.

    Args:
        x: maps (B, H, W, C).
        mask: where to replace, (h, w) of booleans; H and W are multiples of h and w.
    """
    mask = mask.repeat_interleave(x.shape[1] // mask.shape[0], 0)
    mask = mask.repeat_interleave(x.shape[2] // mask.shape[1], 1)
    return torch.where(mask[:, :, None], x.flip(0), x)
