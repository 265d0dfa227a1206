"""Anchor boxes on the grids of feature maps."""

from collections.abc import Sequence

import torch
from torch import nn

from detectron2.layers import ShapeSpec, move_device_like
from detectron2.structures import Boxes

from ._options import Registry, configurable, options

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


def _broadcast_params(params, num_features: int, name: str) -> list:
    """One list of ``params`` per feature map, from a flat list, one list, or a list for each."""
    assert isinstance(params, Sequence), f"{name} of anchors has to be a list! Got {params}."
    assert len(params), f"{name} of anchors cannot be empty!"
    lists = list(params) if isinstance(params[0], Sequence) else [params]
    lists = lists * num_features if len(lists) == 1 else lists
    assert len(lists) == num_features, f"{name} of length {len(lists)}, not {num_features}!"
    return lists


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
        self.cell_anchors = BufferList(map(self.generate_cell_anchors, sizes, aspect_ratios))

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

    def generate_cell_anchors(self, sizes=(32, 64, 128, 256, 512), aspect_ratios=(0.5, 1, 2)):
        """Anchors around (0, 0), sizes in the outer loop: (len(sizes) * len(aspect_ratios), 4)."""
        lists = [torch.tensor(list(x), dtype=torch.float64) for x in (sizes, aspect_ratios)]
        size, ratio = torch.cartesian_prod(*lists).unbind(1)
        width = (size**2 / ratio).sqrt()
        corner = torch.stack((width, width * ratio), dim=1) / 2
        return torch.cat((-corner, corner), dim=1).float()

    def forward(self, features: list[torch.Tensor]) -> list[Boxes]:
        """Anchors of every map (B, C, H, W), as `Boxes` of H * W * anchors, in that order."""
        anchors: list[Boxes] = []
        # TorchScript can only iterate over buffers by their names.
        cells: list[torch.Tensor] = [named[1] for named in self.cell_anchors.named_buffers()]
        for feature, step, cell in zip(features, self.strides, cells):  # noqa: B905
            start, size = self.offset * step, feature.shape[-2:]
            axes = [torch.arange(start, n * step, step=step, dtype=torch.float32) for n in size]
            y, x = torch.meshgrid([move_device_like(axis, cell) for axis in axes], indexing="ij")
            centers = torch.stack((x, y, x, y), dim=-1).reshape(-1, 1, 4)
            anchors.append(Boxes((centers + cell).reshape(-1, 4)))
        return anchors


def build_anchor_generator(cfg, input_shape):
    """Build the anchor generator named ``cfg.MODEL.ANCHOR_GENERATOR.NAME``."""
    return ANCHOR_GENERATOR_REGISTRY.get(cfg.MODEL.ANCHOR_GENERATOR.NAME)(cfg, input_shape)
