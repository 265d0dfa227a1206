"""Transforms that fvcore lacks: resizing and cropping through PIL, rotation, colour functions."""

import functools
from collections.abc import Callable

import numpy as np
import torch
from fvcore.transforms.transform import BlendTransform, CropTransform, Transform, TransformList
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

__all__ = ["ExtentTransform", "ResizeTransform", "RotationTransform"]
__all__ += ["ColorTransform", "PILColorTransform"]


def _through_pil(img: np.ndarray, func: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Apply a function of PIL images to an array (H, W), (H, W, 1) or (H, W, C)."""
    if img.ndim > 2 and img.shape[2] == 1:
        return np.asarray(func(Image.fromarray(img[:, :, 0])))[:, :, None]
    return np.asarray(func(Image.fromarray(img)))


def _through_torch(img: np.ndarray, func: Callable[[Tensor], Tensor]) -> np.ndarray:
    """Apply a function of (1, C, H, W) tensors to an array (H, W) or (H, W, ...)."""
    # In C order: torch takes no negative strides, which flips leave behind.
    pixels = torch.from_numpy(np.ascontiguousarray(img)).reshape(1, *img.shape[:2], -1)
    out = func(pixels.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return out.reshape(*out.shape[1:3], *img.shape[2:]).numpy()


class _Resampling(Transform):
    """A transform whose ``apply_image`` takes ``interp``, of which 0 is the nearest pixel."""

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation, interp=0)


class ExtentTransform(_Resampling):
    """Cut a rectangle out of the image, which may reach beyond it, and scale it to a size.

    Args:
        src_rect: (x0, y0, x1, y1) in the source, pixels.
        output_size: (h, w) of the result, pixels.
        interp: a PIL resampling filter.
        fill: handed to PIL, which leaves pixels from outside the source black all the same.
    """

    def __init__(self, src_rect, output_size, interp=Image.BILINEAR, fill=0):
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray, interp=None) -> np.ndarray:
        # NEAREST is 0, which counts as "not given" here: labels are interpolated as images are.
        extent = self.output_size[::-1], Image.EXTENT, self.src_rect, interp or self.interp
        return _through_pil(img, lambda image: image.transform(*extent, fill=self.fill))

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        h, w = self.output_size
        x0, y0, x1, y1 = self.src_rect
        new_coords = coords.astype(np.float32)
        new_coords[:, 0] = (new_coords[:, 0] - 0.5 * (x0 + x1)) * (w / (x1 - x0)) + 0.5 * w
        new_coords[:, 1] = (new_coords[:, 1] - 0.5 * (y0 + y1)) * (h / (y1 - y0)) + 0.5 * h
        return new_coords


class ResizeTransform(_Resampling):
    """Resize to a fixed size: 8-bit images through PIL (antialiased), others through torch.

    Args:
        h: height before, pixels.
        w: width before, pixels.
        new_h: height after, pixels.
        new_w: width after, pixels.
        interp: a PIL resampling filter, bilinear by default.
    """

    _TORCH_MODES = {Image.NEAREST: "nearest", Image.BILINEAR: "bilinear", Image.BICUBIC: "bicubic"}

    def __init__(self, h, w, new_h, new_w, interp=None):
        super().__init__()
        interp = Image.BILINEAR if interp is None else interp
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray, interp=None) -> np.ndarray:
        assert img.shape[:2] == (self.h, self.w), (img.shape, self.h, self.w)
        assert len(img.shape) <= 4, img.shape
        interp = self.interp if interp is None else interp
        if img.dtype == np.uint8:
            return _through_pil(img, lambda x: x.resize((self.new_w, self.new_h), interp))
        size, mode = (self.new_h, self.new_w), self._TORCH_MODES[interp]
        return _through_torch(img, lambda x: F.interpolate(x, size, mode=mode))

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        coords[:, 0] = coords[:, 0] * (self.new_w / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h / self.h)
        return coords

    def inverse(self) -> "ResizeTransform":
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


class RotationTransform(_Resampling):
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

    _TORCH_MODES = ("nearest", "bilinear", "bicubic")

    def __init__(self, h, w, angle, expand=True, center=None, interp=None):
        super().__init__()
        image_center = np.array((w / 2, h / 2))
        center = image_center if center is None else center
        interp = 1 if interp is None else interp
        abs_cos, abs_sin = abs(np.cos(np.deg2rad(angle))), abs(np.sin(np.deg2rad(angle)))
        around = np.rint([h * abs_sin + w * abs_cos, h * abs_cos + w * abs_sin]).astype(int)
        bound_w, bound_h = around if expand else (w, h)
        self._set_attributes(locals())
        self.rm_coords = self.create_rotation_matrix()
        # Pixel i is centred at coordinate i + 0.5, so pixel indices turn around a shifted point.
        self.rm_image = self.create_rotation_matrix(offset=-0.5)

    def create_rotation_matrix(self, offset: float = 0) -> np.ndarray:
        """Matrix (2, 3) from source to result, of coordinates (offset 0) or indices (-0.5)."""
        angle = np.deg2rad(self.angle)
        rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        source = target = np.asarray(self.center)
        if self.expand:
            source, target = self.image_center, np.array([self.bound_w / 2, self.bound_h / 2])
        return np.column_stack([rotation, target + offset - rotation @ (source + offset)])

    def apply_image(self, img: np.ndarray, interp=None) -> np.ndarray:
        if len(img) == 0 or self.angle % 360 == 0:
            return img
        assert img.shape[:2] == (self.h, self.w), (img.shape, self.h, self.w)
        x, y = np.meshgrid(np.arange(self.bound_w), np.arange(self.bound_h))
        # Row vectors times R equal the inverse rotation of column vectors.
        source = (np.stack([x, y], axis=-1) - self.rm_image[:, 2]) @ self.rm_image[:, :2]
        grid = torch.from_numpy((2 * source + 1) / (self.w, self.h) - 1)[None]
        mode = self._TORCH_MODES[self.interp if interp is None else interp]
        sample = functools.partial(F.grid_sample, grid=grid, mode=mode, align_corners=False)
        out = _through_torch(img.astype(np.float64), sample)
        if np.issubdtype(img.dtype, np.integer):
            info = np.iinfo(img.dtype)
            out = np.clip(np.rint(out), info.min, info.max)
        return out.astype(img.dtype)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        coords = np.asarray(coords, dtype=float)
        if len(coords) == 0 or self.angle % 360 == 0:
            return coords
        return coords @ self.rm_coords[:, :2].T + self.rm_coords[:, 2]

    def inverse(self) -> TransformList:
        """Rotate back and cut away what the two expansions added.

        Raises:
            NotImplementedError: without ``expand`` the corners are lost.
        """
        if not self.expand:
            raise NotImplementedError("Only a rotation with expand=True can be inverted")
        back = RotationTransform(self.bound_h, self.bound_w, -self.angle, True, None, self.interp)
        x0, y0 = (back.bound_w - self.w) // 2, (back.bound_h - self.h) // 2
        return TransformList([back, CropTransform(x0, y0, self.w, self.h)])


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

    # As for blending, coordinates and labels stay.
    apply_coords = BlendTransform.apply_coords
    apply_segmentation = BlendTransform.apply_segmentation
    inverse = BlendTransform.inverse


class PILColorTransform(ColorTransform):
    """As ``ColorTransform``, with a function of PIL images."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return np.asarray(self.op(Image.fromarray(img)))
