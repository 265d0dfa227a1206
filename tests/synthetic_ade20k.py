"""A small tree in ADE20K's layout, with labels that the pictures' colours tell."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

NUM_CLASSES = 150
_BLOCK = 24  # pixels: side of the squares of one class
_VOID = 0  # in the files, where class k is k + 1


def class_color(label: int) -> tuple[int, int, int]:
    """Colour that pixels of a class jitter around."""
    return tuple(40 + label * step % 176 for step in (37, 71, 113))


def write_ade20k(
    root: str | Path,
    n_train: int,
    n_val: int,
    sizes: Sequence[tuple[int, int]] = ((96, 128), (120, 90), (75, 113)),
    seed: int = 0,
) -> Path:
    """Write ``ADEChallengeData2016`` with images and annotations, and return its path.

    Images are JPEGs of squares of random classes, one in eight of them void, with noise.

    Args:
        root: becomes ``DETECTRON2_DATASETS``.
        n_train: training images.
        n_val: validation images.
        sizes: (height, width) in pixels; the images take them in turns.
        seed: of everything.
    """
    tree = Path(root) / "ADEChallengeData2016"
    rng = np.random.default_rng(seed)
    for folder, name, count in (("training", "train", n_train), ("validation", "val", n_val)):
        images, labels = (tree / kind / folder for kind in ("images", "annotations"))
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in range(count):
            values = _squares(rng, *sizes[number % len(sizes)])
            stem = f"ADE_{name}_{number + 1:08d}"
            Image.fromarray(values).save(labels / f"{stem}.png")
            Image.fromarray(_paint(rng, values)).save(images / f"{stem}.jpg", quality=90)
    return tree


def _squares(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    shape = (-(-height // _BLOCK), -(-width // _BLOCK))
    values = rng.integers(1, NUM_CLASSES + 1, shape)
    values[rng.random(shape) < 1 / 8] = _VOID
    return np.kron(values, np.ones((_BLOCK, _BLOCK), int))[:height, :width].astype(np.uint8)


def _paint(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    colors = np.array([class_color(label) for label in range(-1, NUM_CLASSES)])
    return (colors[values] + rng.normal(0, 8, (*values.shape, 3))).clip(0, 255).astype(np.uint8)
