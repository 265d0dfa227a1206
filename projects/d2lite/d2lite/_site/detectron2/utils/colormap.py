"""A fixed palette of 74 colours, and random choices from it."""

import random

import numpy as np

__all__ = ["colormap", "random_color", "random_colors"]


def _palette() -> np.ndarray:
    """Colours (74, 3) RGB in 0..1: well-told-apart ones first, then grids and ramps of RGB."""
    strong = [(0, 0.447, 0.741), (0.85, 0.325, 0.098), (0.929, 0.694, 0.125)]
    strong += [(0.494, 0.184, 0.556), (0.466, 0.674, 0.188), (0.301, 0.745, 0.933)]
    strong += [(0.635, 0.078, 0.184), (0.3, 0.3, 0.3), (0.6, 0.6, 0.6), (1, 0, 0)]
    strong += [(1, 0.5, 0), (0.749, 0.749, 0), (0, 1, 0), (0, 0, 1), (0.667, 0, 1)]
    thirds = (0, 0.333, 0.667, 1)
    # Without what the ramps below hold: black, pure red and green, blue, and white.
    grid = [(r, g, 0) for r in thirds[1:] for g in thirds[1:]]
    grid += [(r, g, 0.5) for r in thirds for g in thirds if (r, g) != (0, 0)]
    grid += [(r, g, 1) for r in thirds for g in thirds if (r, g) not in ((0, 0), (1, 1))]
    ramp = (0.167, 0.333, 0.5, 0.667, 0.833, 1)
    ramps = [(v, 0, 0) for v in ramp[1:]] + [(0, v, 0) for v in ramp] + [(0, 0, v) for v in ramp]
    greys = [(v, v, v) for v in (0, 0.143, 0.857, 1)]
    return np.array(strong + grid + ramps + greys, dtype=np.float32)


_COLORS = _palette()


def colormap(rgb=False, maximum=255):
    """The palette as a float32 array (74, 3).

    Args:
        rgb: order of the channels; BGR by default.
        maximum: 255 or 1, the value of a full channel.
    """
    assert maximum in [255, 1], maximum
    colors = _COLORS * maximum
    return colors if rgb else colors[:, ::-1]


def random_color(rgb=False, maximum=255):
    """One colour of the palette, by numpy's generator; arguments as of `colormap`."""
    return colormap(rgb, maximum)[np.random.randint(0, len(_COLORS))]


def random_colors(N, rgb=False, maximum=255):
    """List of N different colours, by Python's generator; arguments as of `colormap`."""
    return list(colormap(rgb, maximum)[random.sample(range(len(_COLORS)), N)])
