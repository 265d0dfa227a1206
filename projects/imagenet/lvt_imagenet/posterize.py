"""Lets RandAugment posterize to 0 bits again, which Pillow 13 refuses.

LVT's policy, ``rand-m9-mstd0.5-inc1``, draws a magnitude of 10 for one image in 40 that it
posterizes: timm then asks for 0 bits of every channel. Pillow used to give a black image, which
the published training saw; now it raises ValueError, which would end a training within minutes.
"""

from typing import Any

from PIL import Image, ImageOps
from timm.data import auto_augment

_OPERATIONS = ("Posterize", "PosterizeIncreasing", "PosterizeOriginal")


def posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keep the highest bits of every channel; black for 0.

    Args:
        image: to posterize.
        bits: to keep; 8 and more change nothing.
        **_: what timm gives to all operations: interpolation and colour of what is new.
    """
    if bits >= 8:
        return image
    return ImageOps.posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)


def install() -> None:
    """Make it the operation of all policies that timm makes from now on."""
    auto_augment.NAME_TO_OP.update(dict.fromkeys(_OPERATIONS, posterize))
