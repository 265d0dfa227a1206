#!/usr/bin/env python
"""Writes scikit-learn's handwritten digits as an image folder.

    make_digits.py datasets/digits

1797 real images of 8x8 pixels and 10 classes, enlarged. A fixed fifth of each class is val/, the
rest train/; --validation takes a fifth of the rest for val/ in its place, to choose settings by
without looking at the held-out images.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SEED = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    args = parse_args(argv)
    if args.size < 8:
        print(f"make_digits.py: --size is {args.size}; expected 8 or more", file=sys.stderr)
        return 2
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        print("make_digits.py: needs scikit-learn; pip install scikit-learn", file=sys.stderr)
        return 2
    digits = load_digits()
    train, held_out = split(digits.target, np.arange(len(digits.target)))
    if args.validation:
        train, held_out = split(digits.target, train)
    for part, indices in (("train", train), ("val", held_out)):
        for index in indices:
            folder = args.folder / part / str(digits.target[index])
            folder.mkdir(parents=True, exist_ok=True)
            pixels = (digits.images[index] * (255 / 16)).round().astype(np.uint8)
            image = Image.fromarray(pixels).resize((args.size, args.size), Image.BICUBIC)
            image.save(folder / f"{index:04d}.png")
    print(f"{args.folder}: {len(train)} images in train/, {len(held_out)} in val/")
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    summary, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="to write into")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side (64)")
    parser.add_argument("--validation", action="store_true", help="hold out a part of train/")
    return parser.parse_args(argv)


def split(target: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Four fifths and one fifth of each class among ``indices``."""
    shuffled = np.random.default_rng(SEED).permutation(indices)
    held_out = np.zeros(len(target), dtype=bool)
    for label in np.unique(target):
        members = shuffled[target[shuffled] == label]
        held_out[members[: round(len(members) / 5)]] = True
    return np.sort(shuffled[~held_out[shuffled]]), np.sort(shuffled[held_out[shuffled]])


if __name__ == "__main__":
    sys.exit(main())
