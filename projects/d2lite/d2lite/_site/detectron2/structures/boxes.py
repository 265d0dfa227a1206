"""Axis-aligned boxes, the ways to write them down, and the measures between two sets of them.

Shape letters: N, M numbers of boxes, K of points.
"""

from enum import IntEnum, unique
from typing import List, Tuple, Union  # noqa: UP035 (TorchScript compiles Boxes)

import numpy as np
import torch
from torch import Tensor, device

_RawBoxes = Union[List[float], Tuple[float, ...], Tensor, np.ndarray]  # noqa: UP006, UP007


@unique
class BoxMode(IntEnum):
    """How the four (five with an angle) numbers of a box are meant."""

    XYXY_ABS = 0
    """(x0, y0, x1, y1) in pixels."""
    XYWH_ABS = 1
    """(x0, y0, width, height) in pixels."""
    XYXY_REL = 2
    """(x0, y0, x1, y1) as fractions of the image's size. Not supported yet."""
    XYWH_REL = 3
    """(x0, y0, width, height) as fractions of the image's size. Not supported yet."""
    XYWHA_ABS = 4
    """(centre x, centre y, width, height, angle in degrees counter-clockwise)."""

    @staticmethod
    def convert(box: _RawBoxes, from_mode: "BoxMode", to_mode: "BoxMode") -> _RawBoxes:
        """Rewrite boxes in another mode.

        Args:
            box: one box as a list or tuple of k numbers, or an array or tensor (..., k); k is 5
                for XYWHA_ABS, else 4.
            from_mode: mode of ``box``.
            to_mode: mode to return.

        Returns:
            The same type as ``box``; ``box`` itself when both modes are the same, else a copy.

        Raises:
            AssertionError: wrong number of coordinates, or a relative mode.
            NotImplementedError: no conversion between the two modes.
        """
        if from_mode == to_mode:
            return box
        from_mode, to_mode = BoxMode(from_mode), BoxMode(to_mode)
        relative = (BoxMode.XYXY_REL, BoxMode.XYWH_REL)
        assert from_mode not in relative and to_mode not in relative, (
            f"Relative box modes are not supported: got {from_mode.name} -> {to_mode.name}"
        )
        conversion = _CONVERSIONS.get((from_mode, to_mode))
        if conversion is None:
            raise NotImplementedError(
                f"Conversion from BoxMode {from_mode.name} to {to_mode.name} is not supported"
            )
        if isinstance(box, (list, tuple)):
            assert len(box) in (4, 5), (
                "BoxMode.convert takes a list or tuple of k numbers or an array (N, k), where k is "
                f"4 or 5; got {len(box)} numbers"
            )
            return type(box)(conversion(torch.tensor(box)).tolist())
        if isinstance(box, np.ndarray):
            return conversion(torch.from_numpy(box.copy())).numpy()
        return conversion(box)


def _xywh_to_xyxy(boxes: Tensor) -> Tensor:
    return torch.cat([boxes[..., :2], boxes[..., :2] + boxes[..., 2:4]], dim=-1)


def _xyxy_to_xywh(boxes: Tensor) -> Tensor:
    return torch.cat([boxes[..., :2], boxes[..., 2:4] - boxes[..., :2]], dim=-1)


def _xywh_to_xywha(boxes: Tensor) -> Tensor:
    start, size = boxes.double().split(2, dim=-1)
    return torch.cat([start + size / 2, size, torch.zeros_like(size[..., :1])], dim=-1).to(boxes)


def _xywha_to_xyxy(boxes: Tensor) -> Tensor:
    """Smallest upright boxes around the rotated ones."""
    assert boxes.shape[-1] == 5, (
        f"The last dimension of boxes in XYWHA format must be 5, got {boxes.shape[-1]}"
    )
    center, size, angle = boxes.double().split((2, 2, 1), dim=-1)
    cos, sin = torch.deg2rad(angle).cos().abs(), torch.deg2rad(angle).sin().abs()
    half = (cos * size + sin * size.flip(-1)) / 2
    return torch.cat([center - half, center + half], dim=-1).to(boxes)


_CONVERSIONS = {
    (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS): _xywh_to_xyxy,
    (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS): _xyxy_to_xywh,
    (BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS): _xywh_to_xywha,
    (BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS): _xywha_to_xyxy,
}


class Boxes:
    """N boxes (x0, y0, x1, y1) in pixels; TorchScript can compile this class.

    Attributes:
        tensor: float32 (N, 4).
    """

    def __init__(self, tensor: Tensor):
        """Take a float32 copy of an (N, 4) array, or the tensor itself where it is float32.

        Raises:
            AssertionError: another shape; anything without elements counts as (0, 4).
        """
        if not isinstance(tensor, Tensor):
            tensor = torch.as_tensor(tensor, dtype=torch.float32, device=torch.device("cpu"))
        else:
            tensor = tensor.to(torch.float32)
        # The shape first: torch.export can't branch on a number of boxes that depends on values.
        if (tensor.dim() != 2 or tensor.size(-1) != 4) and tensor.numel() == 0:
            # A reshaped input, unlike a new tensor, stays part of a traced graph.
            tensor = tensor.reshape((-1, 4))
        assert tensor.dim() == 2 and tensor.size(-1) == 4, tensor.size()
        self.tensor = tensor

    def clone(self) -> "Boxes":
        return Boxes(self.tensor.clone())

    def to(self, device: device) -> "Boxes":
        return Boxes(self.tensor.to(device=device))

    def area(self) -> Tensor:
        """Areas (N,) in square pixels."""
        box = self.tensor
        return (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])

    def clip(self, box_size: Tuple[int, int]) -> None:  # noqa: UP006
        """Move coordinates, in place, into 0..width and 0..height.

        Args:
            box_size: height and width of the image.

        Raises:
            AssertionError: a coordinate is infinite or NaN.
        """
        exporting = False
        if not torch.jit.is_scripting():
            exporting = torch.compiler.is_compiling()
        if not exporting:  # a graph that torch.export makes can't branch on values
            assert torch.isfinite(self.tensor).all(), "Box tensor contains infinite or NaN!"
        h, w = box_size
        x0 = self.tensor[:, 0].clamp(min=0, max=w)
        y0 = self.tensor[:, 1].clamp(min=0, max=h)
        x1 = self.tensor[:, 2].clamp(min=0, max=w)
        y1 = self.tensor[:, 3].clamp(min=0, max=h)
        self.tensor = torch.stack((x0, y0, x1, y1), dim=-1)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """Which boxes have both sides longer than ``threshold`` pixels, bool (N,)."""
        box = self.tensor
        return (box[:, 2] - box[:, 0] > threshold) & (box[:, 3] - box[:, 1] > threshold)

    def __getitem__(self, item) -> "Boxes":
        """New Boxes by an integer (one box), a slice, or a mask or index tensor.

        They may share memory with these, as the tensor's indexing does.

        Raises:
            AssertionError: the result is not a matrix.
        """
        if isinstance(item, int):
            return Boxes(self.tensor[item].view(1, -1))
        box = self.tensor[item]
        assert box.dim() == 2, f"Indexing on Boxes with {item} failed to return a matrix!"
        return Boxes(box)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __repr__(self) -> str:
        return "Boxes(" + str(self.tensor) + ")"

    def inside_box(self, box_size: Tuple[int, int], boundary_threshold: int = 0) -> Tensor:  # noqa: UP006
        """Which boxes lie inside an image of (height, width), widened by some pixels, bool (N,)."""
        height, width = box_size
        box = self.tensor
        return (
            (box[..., 0] >= -boundary_threshold)
            & (box[..., 1] >= -boundary_threshold)
            & (box[..., 2] < width + boundary_threshold)
            & (box[..., 3] < height + boundary_threshold)
        )

    def get_centers(self) -> Tensor:
        """Centres (N, 2) as (x, y)."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply the coordinates in place."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    @classmethod
    def cat(cls, boxes_list: List["Boxes"]) -> "Boxes":  # noqa: UP006
        """Join several sets; the result never shares memory with them.

        Raises:
            AssertionError: not a list or tuple of Boxes.
        """
        assert isinstance(boxes_list, (list, tuple))
        if len(boxes_list) == 0:
            return cls(torch.empty(0))
        assert all([isinstance(boxes, Boxes) for boxes in boxes_list])  # noqa: C419
        return cls(torch.cat([boxes.tensor for boxes in boxes_list], dim=0))

    @property
    def device(self) -> device:
        return self.tensor.device

    @torch.jit.unused
    def __iter__(self):
        yield from self.tensor


def pairwise_intersection(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Areas (N, M) shared by every pair of boxes, in square pixels."""
    first, second = boxes1.tensor[:, None], boxes2.tensor
    sides = torch.min(first[..., 2:], second[:, 2:]) - torch.max(first[..., :2], second[:, :2])
    return sides.clamp_(min=0).prod(dim=2)


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Intersection over union (N, M) of every pair; 0 where nothing is shared."""
    shared = pairwise_intersection(boxes1, boxes2)
    union = boxes1.area()[:, None] + boxes2.area() - shared
    return torch.where(shared > 0, shared / union, 0.0)


def pairwise_ioa(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Intersection over the area of the second box (N, M); 0 where nothing is shared."""
    shared = pairwise_intersection(boxes1, boxes2)
    return torch.where(shared > 0, shared / boxes2.area(), 0.0)


def pairwise_point_box_distance(points: Tensor, boxes: Boxes) -> Tensor:
    """Signed distances from points to the sides of boxes, positive inwards.

    Args:
        points: (K, 2) as (x, y).
        boxes: M boxes.

    Returns:
        (K, M, 4): to the left, top, right and bottom side, in pixels.
    """
    points, sides = points[:, None], boxes.tensor
    return torch.cat([points - sides[:, :2], sides[:, 2:] - points], dim=2)


def matched_pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Intersection over union (N,) of boxes of the same index; NaN where both are empty.

    Raises:
        AssertionError: the two sets differ in length.
    """
    assert len(boxes1) == len(boxes2), (
        f"boxlists should have the same number of entries, got {len(boxes1)}, {len(boxes2)}"
    )
    first, second = boxes1.tensor, boxes2.tensor
    sides = torch.min(first[:, 2:], second[:, 2:]) - torch.max(first[:, :2], second[:, :2])
    shared = sides.clamp(min=0).prod(dim=1)
    return shared / (boxes1.area() + boxes2.area() - shared)


matched_boxlist_iou = matched_pairwise_iou
