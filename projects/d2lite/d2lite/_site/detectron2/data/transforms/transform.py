"""Transforms that fvcore lacks: resizing and cropping through PIL, rotation, colour functions."""

from collections.abc import Callable

import numpy as np
import torch
from fvcore.transforms.transform import CropTransform, NoOpTransform, Transform, TransformList
from PIL import Image
from torch.nn import functional as F

__all__ = [
    "ExtentTransform",
    "ResizeTransform",
    "RotationTransform",
    "ColorTransform",
    "PILColorTransform",
]


def _through_pil(img: np.ndarray, func: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Apply a function of PIL images to an array (H, W), (H, W, 1) or (H, W, C)."""
    if img.ndim > 2 and img.shape[2] == 1:
        return np.asarray(func(Image.fromarray(img[:, :, 0])))[:, :, None]
    return np.asarray(func(Image.fromarray(img)))


def _cast_back(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Round and saturate where ``dtype`` holds whole numbers only."""
    if dtype.kind == "b":
        return values >= 0.5
    if np.issubdtype(dtype, np.integer):
        info = np.iinfo(dtype)
        values = np.clip(np.rint(values), info.min, info.max)
    return values.astype(dtype)


class ExtentTransform(Transform):
    """Cut a rectangle out of the image, which may reach beyond it, and scale it to a size.

    Args:
        src_rect: (x0, y0, x1, y1) in the source, pixels.
        output_size: (h, w) of the result, pixels.
        interp: a PIL resampling filter.
        fill: value of pixels from outside the source.
    """

    def __init__(self, src_rect, output_size, interp=Image.BILINEAR, fill=0):
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray, interp=None) -> np.ndarray:
        h, w = self.output_size
        # NEAREST is 0 in PIL, so a truth test would mistake it for "not given".
        resample = self.interp if interp is None else interp

        def extent(image: Image.Image) -> Image.Image:
            bands = len(image.getbands())
            return image.transform(
                size=(w, h),
                method=Image.EXTENT,
                data=self.src_rect,
                resample=resample,
                fillcolor=self.fill if bands == 1 else (self.fill,) * bands,
            )

        return _through_pil(img, extent)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        h, w = self.output_size
        x0, y0, x1, y1 = self.src_rect
        new_coords = coords.astype(np.float32)
        new_coords[:, 0] = (new_coords[:, 0] - 0.5 * (x0 + x1)) * (w / (x1 - x0)) + 0.5 * w
        new_coords[:, 1] = (new_coords[:, 1] - 0.5 * (y0 + y1)) * (h / (y1 - y0)) + 0.5 * h
        return new_coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation, interp=Image.NEAREST)


class ResizeTransform(Transform):
    """Resize to a fixed size: 8-bit images through PIL (antialiased), others through torch.

    Args:
        h: height before, pixels.
        w: width before, pixels.
        new_h: height after, pixels.
        new_w: width after, pixels.
        interp: a PIL resampling filter, bilinear by default.
    """

    _TORCH_MODES = {
        Image.NEAREST: "nearest",
        Image.BILINEAR: "bilinear",
        Image.BICUBIC: "bicubic",
    }

    def __init__(self, h, w, new_h, new_w, interp=None):
        super().__init__()
        if interp is None:
            interp = Image.BILINEAR
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray, interp=None) -> np.ndarray:
        assert img.shape[:2] == (self.h, self.w), (
            f"Expected an image of height {self.h} and width {self.w}, got shape {img.shape}"
        )
        assert len(img.shape) <= 4, img.shape
        interp = self.interp if interp is None else interp
        if img.dtype == np.uint8:
            return _through_pil(img, lambda x: x.resize((self.new_w, self.new_h), interp))
        return self._interpolate(img, interp)

    def _interpolate(self, img: np.ndarray, interp) -> np.ndarray:
        # torch interpolates neither bool nor most integers; float64 holds them exactly.
        is_float = np.issubdtype(img.dtype, np.floating)
        # A copy in C order: torch takes no negative strides, which flips leave behind.
        tensor = torch.from_numpy(np.ascontiguousarray(img if is_float else img.astype(np.float64)))
        mode = self._TORCH_MODES[interp]
        out = F.interpolate(
            tensor.reshape(1, self.h, self.w, -1).permute(0, 3, 1, 2),
            (self.new_h, self.new_w),
            mode=mode,
            align_corners=None if mode == "nearest" else False,
        )
        out = out.permute(0, 2, 3, 1).reshape(self.new_h, self.new_w, *img.shape[2:]).numpy()
        return out if is_float else _cast_back(out, img.dtype)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        coords[:, 0] = coords[:, 0] * (self.new_w * 1.0 / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h * 1.0 / self.h)
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation, interp=Image.NEAREST)

    def inverse(self) -> "ResizeTransform":
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


class RotationTransform(Transform):
    """Rotate around a point; boxes become the boxes around their rotated corners.

    Args:
        h: height of the image, pixels.
        w: width of the image, pixels.
        angle: degrees, counter-clockwise as seen.
        expand: enlarge the result so that no pixel is lost, instead of keeping the size.
        center: (x, y) of the rotation, pixels; the image's centre by default. Without effect
            on an expanded result.
        interp: 0 nearest, 1 bilinear (default), 2 bicubic, as OpenCV numbers them.
    """

    _NEAREST, _LINEAR = 0, 1
    _TORCH_MODES = ("nearest", "bilinear", "bicubic")

    def __init__(self, h, w, angle, expand=True, center=None, interp=None):
        super().__init__()
        image_center = np.array((w / 2, h / 2))
        if center is None:
            center = image_center
        if interp is None:
            interp = self._LINEAR
        abs_cos, abs_sin = abs(np.cos(np.deg2rad(angle))), abs(np.sin(np.deg2rad(angle)))
        bound_w, bound_h = w, h
        if expand:
            size = np.rint([h * abs_sin + w * abs_cos, h * abs_cos + w * abs_sin])
            bound_w, bound_h = size.astype(int)
        self._set_attributes(locals())
        self.rm_coords = self.create_rotation_matrix()
        # Pixel i is centred at coordinate i + 0.5, so pixel indices turn around a shifted point.
        self.rm_image = self.create_rotation_matrix(offset=-0.5)

    def create_rotation_matrix(self, offset: float = 0) -> np.ndarray:
        """Matrix (2, 3) from source to result, of coordinates (offset 0) or indices (-0.5)."""
        angle = np.deg2rad(self.angle)
        cos, sin = np.cos(angle), np.sin(angle)
        rotation = np.array([[cos, sin], [-sin, cos]])
        center = np.asarray(self.center, dtype=float) + offset
        shift = center - rotation @ center
        if self.expand:
            # The image's centre comes to lie in the centre of the result.
            shift = np.array([self.bound_w / 2, self.bound_h / 2]) + offset
            shift = shift - rotation @ (self.image_center + offset)
        return np.concatenate([rotation, shift[:, None]], axis=1)

    def apply_image(self, img: np.ndarray, interp=None) -> np.ndarray:
        if len(img) == 0 or self.angle % 360 == 0:
            return img
        assert img.shape[:2] == (self.h, self.w), (
            f"Expected an image of height {self.h} and width {self.w}, got shape {img.shape}"
        )
        return self._warp(img, self.interp if interp is None else interp)

    def _warp(self, img: np.ndarray, interp: int) -> np.ndarray:
        rotation, shift = self.rm_image[:, :2], self.rm_image[:, 2]
        x, y = np.meshgrid(np.arange(self.bound_w), np.arange(self.bound_h))
        # Row vectors times R equal the inverse rotation of column vectors.
        source = (np.stack([x, y], axis=-1) - shift) @ rotation
        grid = (2 * source + 1) / (self.w, self.h) - 1
        pixels = torch.from_numpy(img.reshape(1, self.h, self.w, -1).astype(np.float64))
        out = F.grid_sample(
            pixels.permute(0, 3, 1, 2),
            torch.from_numpy(grid)[None],
            mode=self._TORCH_MODES[interp],
            padding_mode="zeros",
            align_corners=False,
        )
        out = out.permute(0, 2, 3, 1).reshape(self.bound_h, self.bound_w, *img.shape[2:])
        return _cast_back(out.numpy(), img.dtype)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        coords = np.asarray(coords, dtype=float)
        if len(coords) == 0 or self.angle % 360 == 0:
            return coords
        return coords @ self.rm_coords[:, :2].T + self.rm_coords[:, 2]

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation, interp=self._NEAREST)

    def inverse(self) -> TransformList:
        """Rotate back and cut away what the two expansions added.

        Raises:
            NotImplementedError: without ``expand`` the corners are lost.
        """
        if not self.expand:
            raise NotImplementedError("Only a rotation with expand=True can be inverted")
        rotation = RotationTransform(
            self.bound_h, self.bound_w, -self.angle, self.expand, None, self.interp
        )
        crop = CropTransform(
            (rotation.bound_w - self.w) // 2, (rotation.bound_h - self.h) // 2, self.w, self.h
        )
        return TransformList([rotation, crop])


class ColorTransform(Transform):
    """Any function of pixel values that leaves the geometry alone.

    Args:
        op: takes and returns an image array.

    Raises:
        ValueError: ``op`` can't be called.
    """

    def __init__(self, op: Callable):
        if not callable(op):
            raise ValueError("op parameter should be callable")
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return self.op(img)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation

    def inverse(self) -> Transform:
        return NoOpTransform()


class PILColorTransform(ColorTransform):
    """As ``ColorTransform``, with a function of PIL images."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return np.asarray(self.op(Image.fromarray(img)))
