"""RoIAlign: features of a fixed size from regions of any size."""

import torch
from torch import Tensor
from torchvision.ops import RoIAlign, roi_align

__all__ = ["ROIAlign", "roi_align"]


class ROIAlign(RoIAlign):
    """Average bilinear samples of a feature map on a grid over each region."""

    def __init__(self, output_size, spatial_scale, sampling_ratio, aligned=True):
        """Set the grid.

        Args:
            output_size: (h, w) of the result.
            spatial_scale: factor from coordinates of regions to pixels of the map.
            sampling_ratio: samples per cell and side; 0 takes as many as the cell has pixels.
            aligned: pixel centres lie at half-integer coordinates, as they do everywhere else;
                False is the first version of the operation, off by half a pixel.
        """
        super().__init__(output_size, spatial_scale, sampling_ratio, aligned)

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool (B, C, H, W) over regions.

        Args:
            input: feature maps.
            rois: (N, 5) as (index in the batch, x0, y0, x1, y1).

        Returns:
            (N, C, h, w).
        """
        assert rois.dim() == 2 and rois.size(1) == 5, f"rois must be (N, 5), got {rois.shape}"
        dtype = input.dtype
        if dtype == torch.bfloat16:  # torchvision has no kernel for it
            input = input.float()
        size, scale, ratio = self.output_size, self.spatial_scale, self.sampling_ratio
        return roi_align(input, rois.to(input.dtype), size, scale, ratio, self.aligned).to(dtype)
