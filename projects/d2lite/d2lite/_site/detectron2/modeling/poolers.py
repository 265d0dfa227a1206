"""Box features from a pyramid of feature maps."""

import math

import torch
from torch import nn
from torchvision.ops import RoIPool

from detectron2.layers import ROIAlign, cat, nonzero_tuple
from detectron2.structures import Boxes


def assign_boxes_to_levels(
    box_lists: list[Boxes],
    min_level: int,
    max_level: int,
    canonical_box_size: int,
    canonical_level: int,
):
    """Choose the level of each box by its size, as FPN does (its equation 1).

    Args:
        box_lists: boxes of every image.
        min_level: log2 of the stride of the finest map; the result counts from it.
        max_level: of the coarsest map.
        canonical_box_size: square root, in pixels, of the area of a box on ``canonical_level``.
        canonical_level: level of such boxes; twice the size is one level up.

    Returns:
        int64, one per box of all images: index into the list of feature maps.
    """
    sizes = torch.sqrt(cat([boxes.area() for boxes in box_lists]))
    # The small term is for empty boxes
    levels = torch.floor(canonical_level + torch.log2(sizes / canonical_box_size + 1e-8))
    levels = torch.clamp(levels, min=min_level, max=max_level)
    return levels.to(torch.int64) - min_level


def convert_boxes_to_pooler_format(box_lists: list[Boxes]):
    """Boxes of all images as rows (index of the image, x1, y1, x2, y2), as pooling takes them."""
    rows = []
    for i, boxes in enumerate(box_lists):
        # A column made from the boxes, not from their number, stays right in a traced graph.
        rows.append(torch.cat((torch.full_like(boxes.tensor[:, :1], float(i)), boxes.tensor), 1))
    return cat(rows, dim=0)


class ROIPooler(nn.Module):
    """Pools every box from the level of a feature pyramid that suits its size.

    Args:
        output_size: side, or (height, width), of the pooled maps.
        scales: map size / image size of each level, from fine to coarse: powers of two in a row.
        sampling_ratio: sampling points per bin and axis for ROIAlign; 0 chooses by box size.
        pooler_type: ``"ROIAlignV2"`` (half-pixel correct), ``"ROIAlign"`` or ``"ROIPool"``.
        canonical_box_size: see `assign_boxes_to_levels`; 224 is the side of ImageNet's crops.
        canonical_level: level of boxes of the canonical size.
    """

    def __init__(
        self,
        output_size,
        scales,
        sampling_ratio,
        pooler_type,
        canonical_box_size=224,
        canonical_level=4,
    ):
        super().__init__()
        if isinstance(output_size, int):
            output_size = (output_size, output_size)
        self.output_size = size = tuple(output_size)
        assert [type(side) for side in size] == [int, int], f"output_size is no 2 integers: {size}"
        if pooler_type == "ROIPool":
            poolers = [RoIPool(size, scale) for scale in scales]
        elif pooler_type in ("ROIAlign", "ROIAlignV2"):
            aligned = pooler_type == "ROIAlignV2"
            poolers = [ROIAlign(size, scale, sampling_ratio, aligned) for scale in scales]
        else:
            raise ValueError(f"Unknown pooler type: {pooler_type}")
        self.level_poolers = nn.ModuleList(poolers)
        finest, coarsest = -math.log2(scales[0]), -math.log2(scales[-1])
        assert finest.is_integer() and coarsest.is_integer(), f"Not each a power of 2: {scales}"
        self.min_level, self.max_level = int(finest), int(coarsest)
        assert len(scales) == coarsest - finest + 1, f"{scales} form no pyramid!"
        assert finest >= 0 and canonical_box_size > 0
        self.canonical_level, self.canonical_box_size = canonical_level, canonical_box_size

    def forward(self, x: list[torch.Tensor], box_lists: list[Boxes]):
        """Pool boxes from feature maps.

        Args:
            x: maps (B, C, H_i, W_i) of all levels.
            box_lists: boxes of each of the B images, in pixels of the image.

        Returns:
            (boxes of all images, C, height, width).
        """
        torch._assert(isinstance(x, list) and isinstance(box_lists, list), "ROIPooler takes lists")
        num_levels, (num_images, channels) = len(self.level_poolers), x[0].shape[:2]
        assert len(x) == num_levels, f"ROIPooler has {num_levels} levels, but got {len(x)} maps"
        assert len(box_lists) == num_images, f"{len(box_lists)} box lists, {num_images} images!"
        if len(box_lists) == 0:
            return x[0].new_zeros((0, channels) + self.output_size)
        rois = convert_boxes_to_pooler_format(box_lists)
        if num_levels == 1:
            return self.level_poolers[0](x[0], rois)
        limits, canonical = (self.min_level, self.max_level), self.canonical_box_size
        levels = assign_boxes_to_levels(box_lists, *limits, canonical, self.canonical_level)
        output = x[0].new_zeros((rois.shape[0], channels) + self.output_size)
        for level, pooler in enumerate(self.level_poolers):
            inds = nonzero_tuple(levels == level)[0]
            output.index_put_((inds,), pooler(x[level], rois[inds]))
        return output
