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
        index = torch.full_like(boxes.tensor[:, :1], float(i))
        rows.append(torch.cat((index, boxes.tensor), dim=1))
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
        levels = [-math.log2(scales[0]), -math.log2(scales[-1])]
        assert all(level.is_integer() for level in levels), f"Not each a power of 2: {scales}"
        self.min_level, self.max_level = (int(level) for level in levels)
        assert len(scales) == self.max_level - self.min_level + 1, f"{scales} form no pyramid!"
        assert 0 <= self.min_level <= self.max_level
        assert canonical_box_size > 0
        self.canonical_level, self.canonical_box_size = canonical_level, canonical_box_size

    def forward(self, x: list[torch.Tensor], box_lists: list[Boxes]):
        """Pool boxes from feature maps.

        Args:
            x: maps (B, C, H_i, W_i) of all levels.
            box_lists: boxes of each of the B images, in pixels of the image.

        Returns:
            (boxes of all images, C, height, width).
        """
        num_levels = len(self.level_poolers)
        torch._assert(isinstance(x, list) and isinstance(box_lists, list), "ROIPooler takes lists")
        assert len(x) == num_levels, f"ROIPooler has {num_levels} levels, but got {len(x)} maps"
        num_images = x[0].size(0)
        assert len(box_lists) == num_images, f"{len(box_lists)} box lists, {num_images} images!"
        height, width = self.output_size
        if len(box_lists) == 0:
            return x[0].new_zeros([0, x[0].shape[1], height, width])
        rois = convert_boxes_to_pooler_format(box_lists)
        if num_levels == 1:
            return self.level_poolers[0](x[0], rois)
        levels = assign_boxes_to_levels(
            box_lists, self.min_level, self.max_level, self.canonical_box_size, self.canonical_level
        )
        output = x[0].new_zeros([rois.shape[0], x[0].shape[1], height, width])
        for level, pooler in enumerate(self.level_poolers):
            inds = nonzero_tuple(levels == level)[0]
            output.index_put_((inds,), pooler(x[level], rois[inds]))
        return output
