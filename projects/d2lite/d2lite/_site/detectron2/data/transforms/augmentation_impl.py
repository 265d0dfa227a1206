"""Augmentations: sizes, crops, flips, rotations and colours."""

import sys

import fvcore.transforms.transform as T
import numpy as np
from PIL import Image

from detectron2.structures import Boxes, pairwise_iou

from .augmentation import Augmentation, _transform_to_aug
from .transform import ExtentTransform, ResizeTransform, RotationTransform

__all__ = ["FixedSizeCrop", "MinIoURandomCrop", "RandomApply", "RandomBrightness", "RandomContrast"]
__all__ += ["RandomCrop", "RandomCrop_CategoryAreaConstraint", "RandomExtent", "RandomFlip"]
__all__ += ["RandomLighting", "RandomResize", "RandomRotation", "RandomSaturation"]
__all__ += ["Resize", "ResizeScale", "ResizeShortestEdge"]


_SSD_IOUS = (0.1, 0.3, 0.5, 0.7, 0.9)


def _pair(value):
    """Two of a number that was given for both, anything else as it is."""
    return (value, value) if isinstance(value, (int, float)) else value


class RandomApply(Augmentation):
    """Apply a transform or an augmentation with a probability.

    Args:
        tfm_or_aug: what to apply.
        prob: probability, 0..1.
    """

    def __init__(self, tfm_or_aug, prob=0.5):
        self.aug = _transform_to_aug(tfm_or_aug)
        assert 0.0 <= prob <= 1.0, f"Probability must be between 0.0 and 1.0 (given: {prob})"
        self.prob = prob

    def get_transform(self, *args) -> T.Transform:
        chosen = self._rand_range() < self.prob
        return self.aug.get_transform(*args) if chosen else T.NoOpTransform()

    def __call__(self, aug_input) -> T.Transform:
        return self.aug(aug_input) if self._rand_range() < self.prob else T.NoOpTransform()


class RandomFlip(Augmentation):
    """Flip left-right or upside down with a probability.

    Args:
        prob: probability, 0..1.
        horizontal: flip left-right.
        vertical: flip upside down; exactly one of the two has to be true.
    """

    def __init__(self, prob=0.5, *, horizontal=True, vertical=False):
        if bool(horizontal) == bool(vertical):
            raise ValueError("Exactly one of horizontal and vertical has to be True")
        self._init(locals())

    def get_transform(self, image) -> T.Transform:
        h, w = image.shape[:2]
        if self._rand_range() >= self.prob:
            return T.NoOpTransform()
        return T.HFlipTransform(w) if self.horizontal else T.VFlipTransform(h)


class Resize(Augmentation):
    """Resize to a fixed size.

    Args:
        shape: (h, w), or one number for both, pixels.
        interp: a PIL resampling filter.
    """

    def __init__(self, shape, interp=Image.BILINEAR):
        shape = tuple(_pair(shape))
        self._init(locals())

    def get_transform(self, image) -> T.Transform:
        return ResizeTransform(*image.shape[:2], *self.shape, self.interp)


class ResizeShortestEdge(Augmentation):
    """Scale the shorter side to a length, or less if the longer side would pass its limit.

    Args:
        short_edge_length: (lowest, highest) with "range", a list of lengths with "choice", or one
            number, pixels. The length 0 leaves the image alone.
        max_size: limit of the longer side, pixels.
        sample_style: "range" or "choice".
        interp: a PIL resampling filter.
    """

    def __init__(
        self, short_edge_length, max_size=sys.maxsize, sample_style="range", interp=Image.BILINEAR
    ):
        assert sample_style in ["range", "choice"], sample_style
        self.is_range = sample_style == "range"
        short_edge_length = _pair(short_edge_length)
        if self.is_range:
            assert len(short_edge_length) == 2, f"'range' takes two values: {short_edge_length}"
        self._init(locals())

    def get_transform(self, image) -> T.Transform:
        h, w = image.shape[:2]
        edge = self.short_edge_length
        size = np.random.randint(edge[0], edge[1] + 1) if self.is_range else np.random.choice(edge)
        if size == 0:
            return T.NoOpTransform()
        new_size = self.get_output_shape(h, w, size, self.max_size)
        return ResizeTransform(h, w, *new_size, self.interp)

    @staticmethod
    def get_output_shape(oldh, oldw, short_edge_length, max_size) -> tuple[int, int]:
        """(h, w) after resizing, each rounded half up."""
        size = float(short_edge_length)
        scale = size / min(oldh, oldw)
        # The shorter side gets its length exactly, not through a product that may round.
        new_h, new_w = (size, scale * oldw) if oldh < oldw else (scale * oldh, size)
        shrink = min(max_size / max(new_h, new_w), 1.0)
        return int(new_h * shrink + 0.5), int(new_w * shrink + 0.5)


class ResizeScale(Augmentation):
    """Fit the image into a target size times a random factor, keeping its proportions.

    Args:
        min_scale: lowest factor.
        max_scale: highest factor.
        target_height: pixels.
        target_width: pixels.
        interp: a PIL resampling filter.
    """

    def __init__(self, min_scale, max_scale, target_height, target_width, interp=Image.BILINEAR):
        self._init(locals())

    def get_transform(self, image) -> T.Transform:
        h, w = image.shape[:2]
        scale = np.random.uniform(self.min_scale, self.max_scale)
        fit = min(self.target_height * scale / h, self.target_width * scale / w)
        return ResizeTransform(h, w, int(np.round(h * fit)), int(np.round(w * fit)), self.interp)


class RandomResize(Augmentation):
    """Resize to one of several sizes.

    Args:
        shape_list: sizes (h, w), pixels.
        interp: a PIL resampling filter.
    """

    def __init__(self, shape_list, interp=Image.BILINEAR):
        self._init(locals())

    def get_transform(self, image) -> T.Transform:
        size = self.shape_list[np.random.randint(len(self.shape_list))]
        return ResizeTransform(*image.shape[:2], *size, self.interp)


class RandomRotation(Augmentation):
    """Rotate by a random angle, counter-clockwise.

    Args:
        angle: (lowest, highest) with "range", a list of angles with "choice", or one number,
            degrees.
        expand: enlarge the result so that no pixel is lost.
        center: with "range" ((x0, y0), (x1, y1)), the corners to draw from, with "choice" a list
            of points, or one point (x, y), as fractions of width and height; None is the centre.
        sample_style: "range" or "choice".
        interp: as for ``RotationTransform``.
    """

    def __init__(self, angle, expand=True, center=None, sample_style="range", interp=None):
        assert sample_style in ["range", "choice"], sample_style
        self.is_range = sample_style == "range"
        angle = _pair(angle)
        if center is not None and isinstance(center[0], (float, int)):
            center = (center, center)
        self._init(locals())

    def get_transform(self, image) -> T.Transform:
        h, w = image.shape[:2]
        center = self.center
        if self.is_range:
            angle = np.random.uniform(*self.angle)
            if center is not None:
                center = [np.random.uniform(*sides) for sides in zip(*center, strict=True)]
        else:
            angle = np.random.choice(self.angle)
            if center is not None:
                center = center[np.random.randint(len(center))]
        if center is not None:
            center = (w * center[0], h * center[1])
        if angle % 360 == 0:
            return T.NoOpTransform()
        return RotationTransform(h, w, angle, self.expand, center, self.interp)


class FixedSizeCrop(Augmentation):
    """Crop to a size at a random place, and pad right and below what is smaller.

    Args:
        crop_size: (h, w), pixels.
        pad: pad smaller images.
        pad_value: value of padded pixels of the image.
        seg_pad_value: label of padded pixels of a segmentation.
    """

    def __init__(self, crop_size, pad=True, pad_value=128.0, seg_pad_value=255):
        self._init(locals())

    def get_transform(self, image) -> T.TransformList:
        (h, w), (crop_h, crop_w) = image.shape[:2], self.crop_size
        # One random number for both axes.
        room = np.maximum((h - crop_h, w - crop_w), 0)
        y0, x0 = np.round(room * np.random.uniform(0.0, 1.0)).astype(int)
        transforms = [T.CropTransform(x0, y0, crop_w, crop_h, w, h)]
        if self.pad:
            pad_h, pad_w = np.maximum((crop_h - h, crop_w - w), 0)
            sizes = pad_w, pad_h, np.minimum(w, crop_w), np.minimum(h, crop_h)
            transforms.append(T.PadTransform(0, 0, *sizes, self.pad_value, self.seg_pad_value))
        return T.TransformList(transforms)


class RandomCrop(Augmentation):
    """Crop a random rectangle.

    Args:
        crop_type: "relative": ``crop_size`` is a fraction of the image; "relative_range": random
            fractions between it and 1; "absolute": pixels, at most the image; "absolute_range":
            each side random within [crop_size[0], crop_size[1]], at most the image.
        crop_size: two numbers, (h, w) but for "absolute_range".
    """

    def __init__(self, crop_type: str, crop_size):
        assert crop_type in ["relative_range", "relative", "absolute", "absolute_range"], crop_type
        self._init(locals())

    def get_transform(self, image) -> T.Transform:
        h, w = image.shape[:2]
        crop_h, crop_w = self.get_crop_size((h, w))
        assert h >= crop_h and w >= crop_w, f"Shape computation in {self} has bugs."
        y0 = np.random.randint(h - crop_h + 1)
        x0 = np.random.randint(w - crop_w + 1)
        return T.CropTransform(x0, y0, crop_w, crop_h)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the crop for an image of size (h, w), pixels."""
        h, w = image_size
        if self.crop_type == "absolute":
            return min(self.crop_size[0], h), min(self.crop_size[1], w)
        if self.crop_type == "absolute_range":
            low, high = self.crop_size
            assert low <= high, self.crop_size
            return tuple(np.random.randint(min(x, low), min(x, high) + 1) for x in (h, w))
        ratio_h, ratio_w = self.crop_size
        if self.crop_type == "relative_range":
            least = np.asarray(self.crop_size, dtype=np.float32)
            ratio_h, ratio_w = least + np.random.rand(2) * (1 - least)
        return int(h * ratio_h + 0.5), int(w * ratio_w + 0.5)


class RandomCrop_CategoryAreaConstraint(Augmentation):
    """``RandomCrop``, tried up to ten times until no label covers too much of the crop.

    Args:
        crop_type: as for ``RandomCrop``.
        crop_size: as for ``RandomCrop``.
        single_category_max_area: largest part of the crop for one label, 0..1; 1 is no limit.
        ignored_category: label that doesn't count, neither as covering nor as area.
    """

    def __init__(self, crop_type, crop_size, single_category_max_area=1.0, ignored_category=None):
        self.crop_aug = RandomCrop(crop_type, crop_size)
        self._init(locals())

    def get_transform(self, image, sem_seg) -> T.Transform:
        if self.single_category_max_area >= 1.0:
            return self.crop_aug.get_transform(image)
        for _ in range(10):
            crop = self.crop_aug.get_transform(sem_seg)
            labels, areas = np.unique(crop.apply_image(sem_seg), return_counts=True)
            if self.ignored_category is not None:
                areas = areas[labels != self.ignored_category]
            if len(areas) > 1 and areas.max() < areas.sum() * self.single_category_max_area:
                break
        return crop


class MinIoURandomCrop(Augmentation):
    """Crop so that every box overlaps the crop by a random least IoU (SSD, arXiv 1512.02325).

    Args:
        min_ious: least IoUs to choose from, besides 0 and "no crop".
        min_crop_size: least side of the crop as a fraction of the image's.
        mode_trials: choices of a least IoU before giving up.
        crop_trials: crops tried for one choice.
    """

    def __init__(self, min_ious=_SSD_IOUS, min_crop_size=0.3, mode_trials=1000, crop_trials=50):
        self._init(locals())
        self.sample_mode = (1, *min_ious, 0)

    def get_transform(self, image, boxes) -> T.Transform:
        if boxes is None:
            return T.NoOpTransform()
        h, w = image.shape[:2]
        for _ in range(self.mode_trials):
            mode = np.random.choice(self.sample_mode)
            if mode == 1:
                return T.NoOpTransform()
            for _ in range(self.crop_trials):
                if crop := self._try_crop(h, w, boxes, mode):
                    return crop
        return T.NoOpTransform()

    def _try_crop(self, h: int, w: int, boxes: np.ndarray, min_iou: float) -> T.Transform | None:
        crop_w = np.random.uniform(self.min_crop_size * w, w)
        crop_h = np.random.uniform(self.min_crop_size * h, h)
        if not 0.5 <= crop_h / crop_w <= 2:
            return None
        # The second bound of np.random.uniform is left at 1, as in the numbers to reproduce.
        left, top = np.random.uniform(w - crop_w), np.random.uniform(h - crop_h)
        x0, y0, x1, y1 = int(left), int(top), int(left + crop_w), int(top + crop_h)
        if x0 == x1 or y0 == y1:
            return None
        if len(boxes):
            patch = Boxes(np.array([[x0, y0, x1, y1]]))
            if pairwise_iou(patch, Boxes(np.reshape(boxes, (-1, 4)))).min() < min_iou:
                return None
            center = (boxes[:, :2] + boxes[:, 2:]) / 2
            if not ((center > (x0, y0)) & (center < (x1, y1))).all(axis=1).any():
                return None
        return T.CropTransform(x0, y0, int(crop_w), int(crop_h))


class RandomExtent(Augmentation):
    """Cut out a scaled and shifted copy of the image's rectangle; outside is black.

    Args:
        scale_range: (lowest, highest) factor of the rectangle.
        shift_range: (x, y) range of the shift of its centre, as fractions of width and height: the
            shift is uniform within half of it to both sides.
    """

    def __init__(self, scale_range, shift_range):
        self._init(locals())

    def get_transform(self, image) -> T.Transform:
        h, w = image.shape[:2]
        rect = np.array([-0.5 * w, -0.5 * h, 0.5 * w, 0.5 * h])
        rect *= np.random.uniform(*self.scale_range)
        for axis, side in enumerate((w, h)):
            rect[axis::2] += self.shift_range[axis] * side * (np.random.rand() - 0.5)
            rect[axis::2] += 0.5 * side
        x0, y0, x1, y1 = rect
        return ExtentTransform(src_rect=(x0, y0, x1, y1), output_size=(int(y1 - y0), int(x1 - x0)))


class _RandomIntensity(Augmentation):
    """Blends the image with some other by a random weight; 1 leaves it alone.

    Args:
        intensity_min: lowest weight of the image.
        intensity_max: highest weight of the image.
    """

    def __init__(self, intensity_min, intensity_max):
        self._init(locals())

    def get_transform(self, image) -> T.Transform:
        weight = np.random.uniform(self.intensity_min, self.intensity_max)
        return T.BlendTransform(self._other(image), 1 - weight, weight)


class RandomContrast(_RandomIntensity):
    """Blend with the image's mean: below 1 takes contrast away, above 1 adds it."""

    def _other(self, image: np.ndarray):
        return image.mean()


class RandomBrightness(_RandomIntensity):
    """Blend with black: below 1 darkens, above 1 brightens."""

    def _other(self, image: np.ndarray):
        return 0


class RandomSaturation(_RandomIntensity):
    """Blend an RGB image with its grey copy: below 1 takes colour away, above 1 adds it."""

    def _other(self, image: np.ndarray):
        assert image.shape[-1] == 3, "RandomSaturation only works on RGB images"
        return image.dot([0.299, 0.587, 0.114])[:, :, np.newaxis]


class RandomLighting(Augmentation):
    """Add random multiples of the principal colours of ImageNet, for RGB images (AlexNet).

    Args:
        scale: standard deviation of the multiples.
    """

    def __init__(self, scale):
        self._init(locals())
        self.eigen_vecs = np.array(
            [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
        )
        self.eigen_vals = np.array([0.2175, 0.0188, 0.0045])

    def get_transform(self, image) -> T.Transform:
        assert image.shape[-1] == 3, "RandomLighting only works on RGB images"
        weights = np.random.normal(scale=self.scale, size=3)
        color = self.eigen_vecs.dot(weights * self.eigen_vals)
        return T.BlendTransform(src_image=color, src_weight=1.0, dst_weight=1.0)
