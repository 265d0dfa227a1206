"""Masks of instances: as bitmaps of the image, as polygons, and as squares within their boxes."""

from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from torch import Tensor, device

from detectron2.layers.mask_ops import _paste_masks_tensor_shape, paste_masks_in_image
from detectron2.layers.roi_align import ROIAlign

from .boxes import Boxes


def polygon_area(x: np.ndarray, y: np.ndarray) -> float:
    """Area of a polygon with corners (x, y) by the shoelace formula, in square pixels."""
    return 0.5 * np.abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))


def polygons_to_bitmask(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Draw the union of polygons, by COCO's rules.

    Args:
        polygons: each an array x0, y0, x1, y1...; none at all gives an empty mask.
        height: of the mask, in pixels.
        width: of the mask, in pixels.

    Returns:
        bool (height, width).
    """
    if len(polygons) == 0:  # pycocotools can't
        return np.zeros((height, width), dtype=bool)
    rle = mask_util.merge(mask_util.frPyObjects(polygons, height, width))
    return mask_util.decode(rle).astype(bool)


def rasterize_polygons_within_box(polygons: list[np.ndarray], box, mask_size: int) -> Tensor:
    """Draw the part of polygons inside a box, stretched to a square.

    Args:
        polygons: each an array x0, y0, x1, y1... in image coordinates.
        box: (x0, y0, x1, y1); sides below 0.1 pixel count as 0.1.
        mask_size: side of the square.

    Returns:
        bool (mask_size, mask_size).
    """
    scale_x = mask_size / max(box[2] - box[0], 0.1)
    scale_y = mask_size / max(box[3] - box[1], 0.1)
    start, scale = np.array(box[:2]), (scale_x, scale_y)
    moved = [((polygon.reshape(-1, 2) - start) * scale).reshape(-1) for polygon in polygons]
    return torch.from_numpy(polygons_to_bitmask(moved, mask_size, mask_size))


def _check_joinable(masks_list, kind: type) -> None:
    assert isinstance(masks_list, (list, tuple))
    assert len(masks_list) > 0
    assert all(isinstance(masks, kind) for masks in masks_list)


class BitMasks:
    """N masks of the whole image.

    Attributes:
        tensor: bool (N, H, W).
        image_size: (H, W).
    """

    def __init__(self, tensor: Tensor | np.ndarray):
        if isinstance(tensor, Tensor):
            tensor = tensor.to(torch.bool)
        else:
            tensor = torch.as_tensor(tensor, dtype=torch.bool, device=torch.device("cpu"))
        assert tensor.dim() == 3, tensor.size()
        self.image_size, self.tensor = tensor.shape[1:], tensor

    def to(self, *args: Any, **kwargs: Any) -> "BitMasks":
        return BitMasks(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> device:
        return self.tensor.device

    def __getitem__(self, item: int | slice | Tensor) -> "BitMasks":
        """New BitMasks by an integer (one mask), a slice, or a mask or index tensor.

        Raises:
            AssertionError: the result does not have three dimensions.
        """
        if isinstance(item, int):
            return BitMasks(self.tensor[item].unsqueeze(0))
        masks = self.tensor[item]
        assert masks.dim() == 3, f"Indexing with {item} returns a tensor with shape {masks.shape}!"
        return BitMasks(masks)

    def __iter__(self):
        yield from self.tensor

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(num_instances={len(self.tensor)})"

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def nonempty(self) -> Tensor:
        """Which masks have a pixel, bool (N,)."""
        return self.tensor.flatten(1).any(dim=1)

    @staticmethod
    def from_polygon_masks(polygon_masks, height: int, width: int) -> "BitMasks":
        """Draw polygons in an image of this size in pixels."""
        if isinstance(polygon_masks, PolygonMasks):
            polygon_masks = polygon_masks.polygons
        masks = [polygons_to_bitmask(polygons, height, width) for polygons in polygon_masks]
        return BitMasks(np.stack(masks) if masks else torch.empty(0, height, width))

    @staticmethod
    def from_roi_masks(roi_masks: "ROIMasks", height: int, width: int) -> "BitMasks":
        """Fail with TypeError as in Detectron2: masks of regions don't know where they lie."""
        return roi_masks.to_bitmasks(height, width)

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Crop every mask by its box and resize the crop to a square, as targets of mask heads.

        Args:
            boxes: (N, 4) as (x0, y0, x1, y1).
            mask_size: side of the square.

        Returns:
            bool (N, mask_size, mask_size) on the masks' device.
        """
        assert len(boxes) == len(self), f"{len(boxes)} != {len(self)}"
        boxes = boxes.to(self.tensor.device)
        indices = torch.arange(len(boxes), device=boxes.device).to(boxes.dtype)
        rois = torch.cat([indices[:, None], boxes], dim=1)
        pool = ROIAlign((mask_size, mask_size), 1.0, 0, aligned=True)
        return pool(self.tensor[:, None].float(), rois).squeeze(1) >= 0.5

    def get_bounding_boxes(self) -> Boxes:
        """Smallest boxes around the masks, on the CPU; zeros around an empty one."""
        boxes = torch.zeros(len(self), 4)
        columns, rows = self.tensor.any(dim=1).cpu(), self.tensor.any(dim=2).cpu()
        for box, x, y in zip(boxes, columns, rows, strict=True):
            if x.any():
                x, y = x.nonzero(), y.nonzero()
                box.copy_(torch.cat([x[0], y[0], x[-1] + 1, y[-1] + 1]))
        return Boxes(boxes)

    @staticmethod
    def cat(bitmasks_list: list["BitMasks"]) -> "BitMasks":
        """Join masks of the same image size; at least one BitMasks."""
        _check_joinable(bitmasks_list, BitMasks)
        return type(bitmasks_list[0])(torch.cat([masks.tensor for masks in bitmasks_list], dim=0))


class PolygonMasks:
    """N masks, each the union of some polygons; always on the CPU.

    Attributes:
        polygons: for every instance a list of float64 arrays x0, y0, x1, y1...
    """

    def __init__(self, polygons: list[list[Tensor | np.ndarray | list[float]]]):
        """Copy polygons of every instance.

        Raises:
            ValueError: not lists, an odd number of coordinates, or fewer than six.
        """
        if not isinstance(polygons, list):
            raise ValueError(f"Expect a list of list of polygons per image, not {type(polygons)}")
        self.polygons: list[list[np.ndarray]] = [_instance_polygons(p) for p in polygons]

    def to(self, *args: Any, **kwargs: Any) -> "PolygonMasks":
        return self

    @property
    def device(self) -> device:
        return torch.device("cpu")

    def get_bounding_boxes(self) -> Boxes:
        """Smallest boxes around the masks, reaching right and down to 0 at least.

        An instance without polygons gets (inf, inf, 0, 0).
        """
        boxes = torch.zeros(len(self.polygons), 4)
        boxes[:, :2] = float("inf")
        for box, polygons in zip(boxes, self.polygons, strict=True):
            for polygon in polygons:
                corners = torch.from_numpy(polygon).view(-1, 2).float()
                box[:2] = torch.min(box[:2], corners.amin(0))
                box[2:] = torch.max(box[2:], corners.amax(0))
        return Boxes(boxes)

    def nonempty(self) -> Tensor:
        """Which instances have a polygon, bool (N,)."""
        return torch.tensor([len(polygons) > 0 for polygons in self.polygons], dtype=torch.bool)

    def __getitem__(self, item: int | slice | list[int] | Tensor) -> "PolygonMasks":
        """New PolygonMasks by an integer (one instance), a slice, indices or a mask.

        Raises:
            ValueError: a tensor that is neither bool nor of integers.
            AssertionError: a mask that is not one-dimensional.
        """
        if isinstance(item, slice):
            return PolygonMasks(self.polygons[item])
        if isinstance(item, int):
            item = [item]
        if isinstance(item, (Tensor, np.ndarray)):
            item = torch.as_tensor(item)
            if item.dtype == torch.bool:
                assert item.dim() == 1, item.shape
                item = item.nonzero().squeeze(1)
            elif item.dtype not in (torch.int32, torch.int64):
                raise ValueError(f"Unsupported tensor dtype={item.dtype} for indexing!")
            item = item.tolist()
        return PolygonMasks([self.polygons[i] for i in item])

    def __iter__(self):
        """Iterate over the lists of polygons of the instances."""
        return iter(self.polygons)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(num_instances={len(self.polygons)})"

    def __len__(self) -> int:
        return len(self.polygons)

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Crop every mask by its box and draw the crop as a square, as targets of mask heads.

        Args:
            boxes: (N, 4) as (x0, y0, x1, y1).
            mask_size: side of the square.

        Returns:
            bool (N, mask_size, mask_size) on the boxes' device.
        """
        assert len(boxes) == len(self), f"{len(boxes)} != {len(self)}"
        # NumPy has no bfloat16.
        corners = (boxes.float() if boxes.dtype == torch.bfloat16 else boxes).cpu().numpy()
        masks = torch.empty(len(self), mask_size, mask_size, dtype=torch.bool)
        for mask, polygons, box in zip(masks, self.polygons, corners, strict=True):
            mask.copy_(rasterize_polygons_within_box(polygons, box, mask_size))
        return masks.to(boxes.device)

    def area(self) -> Tensor:
        """Areas (N,) in square pixels: sums over the polygons of an instance."""
        areas = [[polygon_area(p[0::2], p[1::2]) for p in polygons] for polygons in self.polygons]
        return torch.tensor([sum(areas_of_one) for areas_of_one in areas])

    @staticmethod
    def cat(polymasks_list: list["PolygonMasks"]) -> "PolygonMasks":
        """Join several sets; at least one PolygonMasks."""
        _check_joinable(polymasks_list, PolygonMasks)
        return type(polymasks_list[0])(sum((masks.polygons for masks in polymasks_list), []))


def _instance_polygons(polygons: list) -> list[np.ndarray]:
    if not isinstance(polygons, list):
        raise ValueError(f"Expect a list of polygons per instance, not {type(polygons)}")
    arrays = [p.cpu().numpy() if isinstance(p, Tensor) else np.asarray(p) for p in polygons]
    for array in arrays:
        if len(array) % 2 != 0 or len(array) < 6:
            raise ValueError(f"Cannot create a polygon from {len(array)} coordinates.")
    return [array.astype(np.float64) for array in arrays]


class ROIMasks:
    """N square masks, each stretched over a box that is kept elsewhere; what mask heads predict.

    Attributes:
        tensor: (N, M, M), scores 0..1 or bool.
    """

    def __init__(self, tensor: Tensor):
        if tensor.dim() != 3:
            raise ValueError(f"ROIMasks take masks of 3 dimensions, not of shape {tensor.shape}")
        self.tensor = tensor

    def to(self, device: device) -> "ROIMasks":
        return ROIMasks(self.tensor.to(device))

    @property
    def device(self) -> device:
        return self.tensor.device

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __getitem__(self, item) -> "ROIMasks":
        """New ROIMasks by a slice, or a mask or index tensor.

        Raises:
            ValueError: the result does not have three dimensions, as with an integer.
        """
        masks = self.tensor[item]
        if masks.dim() != 3:
            raise ValueError(f"Indexing with {item} returns a tensor with shape {masks.shape}!")
        return ROIMasks(masks)

    @torch.jit.unused
    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(num_instances={len(self.tensor)})"

    @torch.jit.unused
    def to_bitmasks(self, boxes: Boxes, height: int, width: int, threshold: float = 0.5):
        """Paste the masks into an image of this size in pixels, each at its box.

        Scores of ``threshold`` and more are inside.

        Returns:
            BitMasks; not annotated, as TorchScript would compile that class too.
        """
        from detectron2.utils.memory import retry_if_cuda_oom

        paste = paste_masks_in_image
        if not torch.jit.is_tracing():
            paste = retry_if_cuda_oom(paste)
        elif isinstance(height, Tensor):
            paste = _paste_masks_tensor_shape
        return BitMasks(paste(self.tensor, boxes.tensor, (height, width), threshold=threshold))
