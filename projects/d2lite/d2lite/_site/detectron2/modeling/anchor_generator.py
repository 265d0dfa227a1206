"""Anchor boxes on the grids of feature maps."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import nn

from detectron2.config import configurable
from detectron2.layers import ShapeSpec, move_device_like
from detectron2.structures import Boxes
from detectron2.utils.registry import Registry

from ._options import options

# Callables of (cfg, input_shape: list[ShapeSpec]) that return a module which maps a list of feature
# maps to a list of `Boxes`.
ANCHOR_GENERATOR_REGISTRY = Registry("ANCHOR_GENERATOR")


class BufferList(nn.Module):
    """Like ``nn.ParameterList``, for buffers that stay out of the state dict."""

    def __init__(self, buffers):
        super().__init__()
        for i, buffer in enumerate(buffers):
            self.register_buffer(str(i), buffer, persistent=False)

    def __len__(self):
        return len(self._buffers)

    def __iter__(self):
        return iter(self._buffers.values())


def _create_grid_offsets(size: list[int], stride: int, offset: float, target_device_tensor):
    """Coordinates x and y, in pixels, of all points of a (height, width) grid, row by row."""
    start = offset * stride
    shifts = [torch.arange(start, n * stride, step=stride, dtype=torch.float32) for n in size]
    shifts = [move_device_like(shift, target_device_tensor) for shift in shifts]
    shift_y, shift_x = torch.meshgrid(shifts, indexing="ij")
    return shift_x.reshape(-1), shift_y.reshape(-1)


def _broadcast_params(params, num_features: int, name: str) -> list:
    """One list of ``params`` per feature map, from a flat list, one list, or a list for each."""
    assert isinstance(params, Sequence), f"{name} of anchors has to be a list! Got {params}."
    assert len(params), f"{name} of anchors cannot be empty!"
    if not isinstance(params[0], Sequence):
        return [params] * num_features
    if len(params) == 1:
        return list(params) * num_features
    assert len(params) == num_features, f"{name} of length {len(params)}, not {num_features}!"
    return params


@ANCHOR_GENERATOR_REGISTRY.register()
class DefaultAnchorGenerator(nn.Module):
    """Anchors of several sizes and aspect ratios around every cell, as in Faster R-CNN.

    Args:
        sizes: square roots of the anchors' areas, in pixels: a list for each feature map, or
            one list for all of them.
        aspect_ratios: height / width, in the same two forms.
        strides: stride of each feature map, in pixels.
        offset: position of the first anchor's centre in its cell, as a fraction of the stride
            in [0, 1).
    """

    box_dim: torch.jit.Final[int] = 4

    @configurable
    def __init__(self, *, sizes, aspect_ratios, strides, offset=0.5):
        super().__init__()
        assert 0.0 <= offset < 1.0, f"offset of the anchors must be in [0, 1), not {offset}"
        self.strides, self.num_features, self.offset = strides, len(strides), offset
        sizes = _broadcast_params(sizes, self.num_features, "sizes")
        aspect_ratios = _broadcast_params(aspect_ratios, self.num_features, "aspect_ratios")
        self.cell_anchors = BufferList(
            self.generate_cell_anchors(s, a).float()
            for s, a in zip(sizes, aspect_ratios, strict=True)
        )

    @classmethod
    def from_config(cls, cfg, input_shape: list[ShapeSpec]):
        node = options(cfg.MODEL.ANCHOR_GENERATOR, "SIZES ASPECT_RATIOS OFFSET")
        return node | {"strides": [shape.stride for shape in input_shape]}

    @property
    @torch.jit.unused
    def num_anchors(self) -> list[int]:
        """Anchors at every pixel, for each feature map."""
        return [len(anchors) for anchors in self.cell_anchors]

    num_cell_anchors = num_anchors

    def _grid_anchors(self, grid_sizes: list[list[int]]) -> list[torch.Tensor]:
        """All anchors of every grid, each (height * width * anchors, 4)."""
        anchors = []
        # TorchScript can only iterate over buffers by their names.
        cells: list[torch.Tensor] = [named[1] for named in self.cell_anchors.named_buffers()]
        for size, stride, cell in zip(grid_sizes, self.strides, cells):  # noqa: B905
            x, y = _create_grid_offsets(size, stride, self.offset, cell)
            centers = torch.stack((x, y, x, y), dim=1)
            anchors.append((centers[:, None, :] + cell[None, :, :]).reshape(-1, 4))
        return anchors

    def generate_cell_anchors(self, sizes=(32, 64, 128, 256, 512), aspect_ratios=(0.5, 1, 2)):
        """Anchors around (0, 0), sizes in the outer loop: (len(sizes) * len(aspect_ratios), 4)."""
        anchors = []
        for size, ratio in itertools.product(sizes, aspect_ratios):
            half_width = math.sqrt(size**2.0 / ratio) / 2.0
            half_height = half_width * ratio
            anchors.append([-half_width, -half_height, half_width, half_height])
        return torch.tensor(anchors)

    def forward(self, features: list[torch.Tensor]) -> list[Boxes]:
        """Anchors of every map (B, C, H, W), as `Boxes` of H * W * anchors, in that order."""
        grid_sizes = [feature.shape[-2:] for feature in features]
        return [Boxes(anchors) for anchors in self._grid_anchors(grid_sizes)]


def build_anchor_generator(cfg, input_shape):
    """Build the anchor generator named ``cfg.MODEL.ANCHOR_GENERATOR.NAME``."""
    return ANCHOR_GENERATOR_REGISTRY.get(cfg.MODEL.ANCHOR_GENERATOR.NAME)(cfg, input_shape)
