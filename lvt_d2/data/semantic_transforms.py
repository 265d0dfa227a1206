"""Augmentations of the published semantic segmentation pipeline; random draws in its order.

Resizing is that of `lvt_d2.data.transforms`: OpenCV's 8-bit bilinear and nearest arithmetic, met
bit by bit.
"""

from collections.abc import Sequence

import numpy as np
from detectron2.data.transforms import Augmentation, CropTransform, NoOpTransform, Transform

from lvt_d2.data.transforms import ResizeKeepRatio, resize_transform
from lvt_d2.errors import ConfigError

IGNORE_LABEL = 255
_RETRIES = 10  # published: crops that are drawn anew before one is taken unchecked


class ResizeInRange(Augmentation):
    """Fit the image into a frame that is enlarged by a random ratio; its proportions are kept.

    The ratio is uniform in ``[low, high)``; the frame's sides are truncated to whole pixels, those
    of the image rounded half up.

    Args:
        scale: the frame at ratio 1: limits of the longer and of the shorter side, in pixels.
        ratio_range: lowest ratio, and the one that it stays below.

    Raises:
        ConfigError: an argument can't be what is meant.
    """

    def __init__(self, scale: Sequence[int], ratio_range: Sequence[float] = (0.5, 2.0)):
        super().__init__()
        scale, ratio_range = tuple(scale), tuple(ratio_range)
        if len(ratio_range) != 2 or not 0 < ratio_range[0] <= ratio_range[1]:
            raise ConfigError(
                f"ResizeInRange's ratio_range is {ratio_range}; expected (low, high) with "
                "0 < low <= high"
            )
        if len(scale) != 2 or min(scale) * ratio_range[0] < 1:
            raise ConfigError(
                f"ResizeInRange's scale is {scale}; expected (longer, shorter) in pixels, at least "
                f"1 pixel at the ratio {ratio_range[0]}"
            )
        self.scale = scale
        self.ratio_range = ratio_range

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw a ratio and make the transform for ``image`` (H, W[, C])."""
        low, high = self.ratio_range
        ratio = np.random.random_sample() * (high - low) + low
        frame = [int(side * ratio) for side in self.scale]
        h, w = image.shape[:2]
        size = ResizeKeepRatio.output_size(h, w, short=min(frame), max_size=max(frame))
        return resize_transform(image, *size)


class ResizeToMultiple(Augmentation):
    """Resize, not pad, each side up to the next multiple of a number (published at test time).

    It follows the resize to the wanted size: two roundings to 8 bits, as published.

    Args:
        divisor: in pixels.

    Raises:
        ConfigError: ``divisor`` is below 1.
    """

    def __init__(self, divisor: int = 32):
        super().__init__()
        if divisor < 1:
            raise ConfigError(f"ResizeToMultiple's divisor is {divisor}; expected 1 or more pixels")
        self.divisor = divisor

    def get_transform(self, image: np.ndarray) -> Transform:
        """Make the transform for ``image`` (H, W[, C])."""
        return resize_transform(image, *(side + -side % self.divisor for side in image.shape[:2]))


class CategoryAreaCrop(Augmentation):
    """Random crop that should show two classes, none of them over most of its pixels.

    A crop is drawn anew while it has less than two classes or one covers at least
    ``max_category_area`` of the pixels with a label: up to 10 times, and the last one is taken
    unchecked, as published. Detectron2's ``RandomCrop_CategoryAreaConstraint`` draws once less.

    Args:
        crop_size: height and width in pixels; images that are smaller keep their size.
        max_category_area: fraction in 0..1; 1 allows all crops.
        ignore_label: label of pixels that don't count.

    Raises:
        ConfigError: an argument can't be what is meant.
    """

    def __init__(
        self,
        crop_size: Sequence[int],
        max_category_area: float = 0.75,
        ignore_label: int = IGNORE_LABEL,
    ):
        super().__init__()
        self.crop_size = _size("CategoryAreaCrop's crop_size", crop_size)
        if not 0 < max_category_area <= 1:
            raise ConfigError(
                f"CategoryAreaCrop's max_category_area is {max_category_area}; expected a fraction "
                "above 0, at most 1"
            )
        self.max_category_area = max_category_area
        self.ignore_label = ignore_label

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray | None) -> Transform:
        """Draw a crop of ``image`` (H, W[, C]); without labels (H, W) it is not checked."""
        h, w = image.shape[:2]
        crop_h, crop_w = min(h, self.crop_size[0]), min(w, self.crop_size[1])

        def draw() -> tuple[int, int]:
            y = np.random.randint(0, h - crop_h + 1)
            return y, np.random.randint(0, w - crop_w + 1)

        y, x = draw()
        if sem_seg is not None and self.max_category_area < 1:
            for _ in range(_RETRIES):
                if self._is_mixed(sem_seg[y : y + crop_h, x : x + crop_w]):
                    break
                y, x = draw()
        return CropTransform(x, y, crop_w, crop_h, w, h)

    def _is_mixed(self, labels: np.ndarray) -> bool:
        counts = np.bincount(labels.astype(np.int64).ravel(), minlength=self.ignore_label + 1)
        counts[self.ignore_label] = 0
        return np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < self.max_category_area


class MeanPadTransform(Transform):
    """Pad below and to the right: the image with a colour, labels with the one that is ignored.

    Args:
        h: height that comes in, in pixels.
        w: width that comes in, in pixels.
        new_h: height that goes out, not less.
        new_w: width that goes out, not less.
        color: value of padded pixels, one per channel.
        label: label of padded pixels.
    """

    def __init__(self, h: int, w: int, new_h: int, new_w: int, color: Sequence[float], label: int):
        super().__init__()
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w
        self.color, self.label = tuple(color), label

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Pad (H, W, C); the result is float32, since a mean colour is no whole number."""
        padded = np.empty((self.new_h, self.new_w, img.shape[2]), np.float32)
        padded[self.h :] = self.color
        padded[: self.h, self.w :] = self.color
        padded[: self.h, : self.w] = img
        return padded

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Pad labels (H, W)."""
        pads = [(0, self.new_h - self.h), (0, self.new_w - self.w)]
        return np.pad(segmentation, pads, constant_values=self.label)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Points as they are."""
        return coords

    def inverse(self) -> Transform:
        """The crop that takes the padding away."""
        return CropTransform(0, 0, self.w, self.h, self.new_w, self.new_h)


class PadToSize(Augmentation):
    """Pad smaller images below and to the right, with what is 0 once the model has normalised.

    Padded images become float32; those that are large enough stay as they are.

    Args:
        size: least height and width, in pixels.
        color: value of padded pixels, one per channel: the model's ``pixel_mean``.
        label: label of padded pixels.

    Raises:
        ConfigError: ``size`` can't be what is meant.
    """

    def __init__(self, size: Sequence[int], color: Sequence[float], label: int = IGNORE_LABEL):
        super().__init__()
        self.size = _size("PadToSize's size", size)
        self.color = tuple(color)
        self.label = label

    def get_transform(self, image: np.ndarray) -> Transform:
        """Make the transform for ``image`` (H, W, C)."""
        if image.shape[2:] != (len(self.color),):
            raise ConfigError(
                f"PadToSize's color is {self.color}, for an image of shape {image.shape}; expected "
                "one value per channel, the model's pixel_mean"
            )
        h, w = image.shape[:2]
        new_h, new_w = max(h, self.size[0]), max(w, self.size[1])
        if (new_h, new_w) == (h, w):
            return NoOpTransform()
        return MeanPadTransform(h, w, new_h, new_w, self.color, self.label)


def _size(name: str, size: Sequence[int]) -> tuple[int, int]:
    size = tuple(size)
    if len(size) != 2 or min(size) < 1:
        raise ConfigError(f"{name} is {size}; expected (height, width) of at least 1 pixel")
    return size
