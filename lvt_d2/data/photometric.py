"""Photometric distortion of 8-bit images with the arithmetic of the published pipeline.

That pipeline converts with OpenCV's 8-bit HSV, whose hue is in steps of 2 degrees. Its rounding is
imitated here: saturation and hue come from fixed-point divisions with 12 fraction bits. On the way
back, in float32, its vector loop truncates, 32 pixels of a row at a time (AVX2); the pixels that
are left over in a row are rounded. All recorded outputs are met bit by bit; OpenCV on another
processor may differ by one level a step.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from detectron2.data.transforms import Augmentation, Transform

from lvt_d2.errors import ConfigError

_HUES = 180  # steps of 2 degrees
_FRACTION_BITS = 12
_VECTOR = 32  # pixels
_CHANNELS = {"RGB": (0, 1, 2), "BGR": (2, 1, 0)}
# What red, green and blue are in each sixth of the circle of hues.
_TOP, _LOW, _FALLING, _RISING = range(4)
_SIXTHS = (
    (_TOP, _FALLING, _LOW, _LOW, _RISING, _TOP),
    (_RISING, _TOP, _TOP, _FALLING, _LOW, _LOW),
    (_LOW, _LOW, _RISING, _TOP, _TOP, _FALLING),
)


@cache
def _saturations() -> np.ndarray:
    """(256, 256) uint8: saturation by value and by highest minus lowest channel."""
    factors = np.zeros((256, 1), np.int64)
    factors[1:, 0] = np.rint((255 << _FRACTION_BITS) / np.arange(1, 256))
    products = np.arange(256) * factors + (1 << (_FRACTION_BITS - 1))
    return (products >> _FRACTION_BITS).clip(max=255).astype(np.uint8)


@cache
def _hue_factors() -> np.ndarray:
    """(256,) int32: hue steps per difference of channels, by highest minus lowest channel."""
    factors = np.zeros(256, np.int32)
    factors[1:] = np.rint((_HUES << _FRACTION_BITS) / (6.0 * np.arange(1, 256)))
    return factors


@cache
def _channel_factors() -> np.ndarray:
    """(3, 180 * 256) float32: red, green, blue as parts of the value, by hue and saturation."""
    turns = np.arange(_HUES, dtype=np.float32)[:, None] * np.float32(6 / _HUES)
    sixth = np.floor(turns)
    part = turns - sixth
    saturation = np.arange(256, dtype=np.float32) * np.float32(1 / 255)
    one = np.ones((_HUES, 256), np.float32)
    # Doubles stand in for the fused multiply-adds: products of two float32 are exact in them.
    wide = saturation.astype(np.float64)
    levels = [one, one - saturation, 1 - wide * part, 1 - wide * (one - part)]
    levels = [level.astype(np.float32) for level in levels]
    kinds = np.array(_SIXTHS)[:, sixth.astype(int)]
    return np.stack([np.choose(kind, levels).ravel() for kind in kinds])


def rgb_to_hsv(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> tuple[np.ndarray, ...]:
    """Hue 0..179, saturation and value 0..255, all uint8, of 8-bit channels of any one shape."""
    value = np.maximum(np.maximum(red, green), blue)
    span = value - np.minimum(np.minimum(red, green), blue)
    saturation = _saturations()[value, span]
    r, g, b, wide = (x.astype(np.int32) for x in (red, green, blue, span))
    # Of equal channels red goes first, then green.
    hue = np.where(value == green, b - r + 2 * wide, r - g + 4 * wide)
    hue = np.where(value == red, g - b, hue)
    hue *= _hue_factors()[span]
    hue += 1 << (_FRACTION_BITS - 1)
    hue >>= _FRACTION_BITS
    hue[hue < 0] += _HUES
    return hue.astype(np.uint8), saturation, value


def hsv_to_rgb(
    hue: np.ndarray, saturation: np.ndarray, value: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Red, green and blue, uint8, of what `rgb_to_hsv` gives, each (H, W)."""
    place = hue.astype(np.int32) * 256
    place += saturation
    value = value.astype(np.float32) * np.float32(1 / 255)
    left_over = slice(hue.shape[1] // _VECTOR * _VECTOR, None)
    channels = []
    for factors in _channel_factors():
        levels = value * factors[place]
        levels *= np.float32(255)
        levels[:, left_over] = np.rint(levels[:, left_over])
        channels.append(levels.astype(np.uint8))
    return tuple(channels)


def _scale_and_shift(values: np.ndarray, factor: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """``values * factor + shift`` in float32, clipped to 0..255 and truncated to uint8."""
    scaled = values.astype(np.float32) * np.float32(factor) + np.float32(shift)
    return scaled.clip(0, 255).astype(np.uint8)


class PhotometricTransform(Transform):
    """Change brightness, contrast, saturation and hue of an 8-bit image by given amounts.

    Steps that are None are left out; every step ends in 8 bits. Geometry and labels stay.

    Args:
        brightness: levels to add.
        contrast: factor of the levels.
        saturation: factor of the saturation.
        hue: steps of 2 degrees to turn the hue by.
        contrast_first: contrast comes before saturation and hue, not after them.
        image_format: channel order, ``"RGB"`` or ``"BGR"``.
    """

    def __init__(
        self,
        brightness: float | None,
        contrast: float | None,
        saturation: float | None,
        hue: int | None,
        contrast_first: bool,
        image_format: str,
    ):
        super().__init__()
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation
        self.hue, self.contrast_first, self.image_format = hue, contrast_first, image_format

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Distort (H, W, 3) uint8 into a new array, or return it where no step is left."""
        if img.dtype != np.uint8 or img.shape[2:] != (3,):
            raise ValueError(
                f"photometric distortion is for 8-bit colour images, not {img.dtype} of shape "
                f"{img.shape}; put it before what makes images float, PadToSize"
            )
        if self.brightness is not None:
            img = _scale_and_shift(img, shift=self.brightness)
        if self.contrast is not None and self.contrast_first:
            img = _scale_and_shift(img, self.contrast)
        if self.saturation is not None:
            img = self._in_hsv(img, saturation=self.saturation)
        if self.hue is not None:
            img = self._in_hsv(img, hue=self.hue)
        if self.contrast is not None and not self.contrast_first:
            img = _scale_and_shift(img, self.contrast)
        return img

    def _in_hsv(self, img: np.ndarray, saturation: float = 1.0, hue: int = 0) -> np.ndarray:
        order = list(_CHANNELS[self.image_format])
        h, s, v = rgb_to_hsv(*(img[..., i] for i in order))
        if saturation != 1.0:
            s = _scale_and_shift(s, saturation)
        if hue:
            h = ((h.astype(np.int16) + hue) % _HUES).astype(np.uint8)
        result = np.empty_like(img, order="C")
        for i, channel in zip(order, hsv_to_rgb(h, s, v), strict=True):
            result[..., i] = channel
        return result

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Labels as they are."""
        return segmentation

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Points as they are."""
        return coords


class PhotometricDistortion(Augmentation):
    """Each of brightness, contrast, saturation and hue changed with probability 1/2, in that order.

    A coin more decides whether contrast comes before saturation or after hue. Channels are not
    swapped. Defaults are the published values; random numbers are drawn in the published order.

    Args:
        image_format: channel order of the images, ``"RGB"`` or ``"BGR"``; the mapper's.
        brightness: most levels that are added or taken away.
        contrast: lowest and highest factor.
        saturation: lowest and highest factor.
        hue: most steps of 2 degrees that the hue turns by: from ``-hue`` to ``hue - 1``.

    Raises:
        ConfigError: an argument can't be what is meant.
    """

    def __init__(
        self,
        image_format: str,
        brightness: float = 32,
        contrast: Sequence[float] = (0.5, 1.5),
        saturation: Sequence[float] = (0.5, 1.5),
        hue: int = 18,
    ):
        super().__init__()
        if image_format not in _CHANNELS:
            raise ConfigError(
                f"PhotometricDistortion's image_format is {image_format!r}; expected one of "
                f"{tuple(_CHANNELS)}, as the mapper's"
            )
        self.image_format = image_format
        self.brightness = brightness
        self.contrast = _factors("contrast", contrast)
        self.saturation = _factors("saturation", saturation)
        self.hue = hue
        if brightness < 0 or not 1 <= hue <= _HUES:
            raise ConfigError(
                f"PhotometricDistortion's brightness is {brightness} and its hue {hue}; expected "
                f"0 or more levels, and 1..{_HUES} steps of 2 degrees"
            )

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw the amounts."""

        def chosen() -> bool:
            return bool(np.random.randint(2))

        def draw_contrast() -> float | None:
            return np.random.uniform(*self.contrast) if chosen() else None

        brightness = np.random.uniform(-self.brightness, self.brightness) if chosen() else None
        contrast_first = chosen()
        contrast = draw_contrast() if contrast_first else None
        saturation = np.random.uniform(*self.saturation) if chosen() else None
        hue = int(np.random.randint(-self.hue, self.hue)) if chosen() else None
        if not contrast_first:
            contrast = draw_contrast()
        return PhotometricTransform(
            brightness, contrast, saturation, hue, contrast_first, self.image_format
        )


def _factors(name: str, values: Sequence[float]) -> tuple[float, float]:
    values = tuple(values)
    if len(values) != 2 or not 0 <= values[0] <= values[1]:
        raise ConfigError(
            f"PhotometricDistortion's {name} is {values}; expected the lowest and the highest "
            "factor, 0 or more"
        )
    return values
