"""Axis-aligned boxes, the ways to write them down, and the measures between two sets of them.

Shape letters: N, M numbers of boxes, K of points.
"""

from enum import IntEnum, unique
from typing import List, Tuple  # noqa: UP035 (TorchScript compiles Boxes)

import numpy as np
import torch
from torch import Tensor, device


@unique
class BoxMode(IntEnum):
    """How the four (five with an angle) numbers of a box are meant."""

    XYXY_ABS = 0  # (x0, y0, x1, y1) in pixels
    XYWH_ABS = 1  # (x0, y0, width, height) in pixels
    # The same two as fractions of the image's size; not supported yet.
    XYXY_REL = 2
    XYWH_REL = 3
    XYWHA_ABS = 4  # (centre x, centre y, width, height, angle in degrees counter-clockwise)

    @staticmethod
    def convert(box, from_mode: "BoxMode", to_mode: "BoxMode"):
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
        single = isinstance(box, (list, tuple))
        assert not single or len(box) in (4, 5), f"Boxes have k numbers, 4 or 5, not {len(box)}"
        modes = BoxMode(from_mode), BoxMode(to_mode)
        assert not {BoxMode.XYXY_REL, BoxMode.XYWH_REL} & {*modes}, "Relative mode not supported!"
        boxes = torch.as_tensor(box).clone()
        if modes == (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS):
            boxes[..., 2:4] += boxes[..., :2]
        elif modes == (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
            boxes[..., 2:4] -= boxes[..., :2]
        elif modes == (BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS):
            start, size = boxes.double().split(2, dim=-1)
            boxes = torch.cat([start + size / 2, size, 0 * size[..., :1]], dim=-1).to(boxes)
        elif modes == (BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS):
            boxes = _upright_boxes(boxes)
        else:
            names = " to ".join(mode.name for mode in modes)
            raise NotImplementedError(f"Conversion from BoxMode {names} is not supported")
        if single:
            return type(box)(boxes.tolist())
        return boxes.numpy() if isinstance(box, np.ndarray) else boxes


def _upright_boxes(boxes: Tensor) -> Tensor:
    """Smallest upright boxes around rotated ones."""
    assert boxes.shape[-1] == 5, "The last dimension of XYWHA boxes must be 5"
    center, size, angle = boxes.double().split((2, 2, 1), dim=-1)
    cos, sin = torch.deg2rad(angle).cos().abs(), torch.deg2rad(angle).sin().abs()
    half = (cos * size + sin * size.flip(-1)) / 2
    return torch.cat([center - half, center + half], dim=-1).to(boxes)


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
        if isinstance(tensor, Tensor):
            tensor = tensor.to(torch.float32)
        else:
            tensor = torch.as_tensor(tensor, dtype=torch.float32, device=torch.device("cpu"))
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
        x0, y0, x1, y1 = self.tensor.unbind(dim=-1)
        x0, x1 = x0.clamp(min=0, max=w), x1.clamp(min=0, max=w)
        y0, y1 = y0.clamp(min=0, max=h), y1.clamp(min=0, max=h)
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
        x0, y0, x1, y1 = self.tensor.unbind(dim=-1)
        start_inside = (x0 >= -boundary_threshold) & (y0 >= -boundary_threshold)
        end_inside = (x1 < width + boundary_threshold) & (y1 < height + boundary_threshold)
        return start_inside & end_inside

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
    assert len(boxes1) == len(boxes2), f"boxlists must match: got {len(boxes1)}, {len(boxes2)}"
    first, second = boxes1.tensor, boxes2.tensor
    sides = torch.min(first[:, 2:], second[:, 2:]) - torch.max(first[:, :2], second[:, :2])
    shared = sides.clamp(min=0).prod(dim=1)
    return shared / (boxes1.area() + boxes2.area() - shared)


matched_boxlist_iou = matched_pairwise_iou
