"""Box encodings with limits on both sides."""

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor


class SymmetricBox2BoxTransform(Box2BoxTransform):
    """Detectron2's ``Box2BoxTransform`` that also limits how much a box may shrink.

    The log-scale deltas are clamped to ``+-scale_clamp``; Detectron2 clamps the upper side only.
    """

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Apply (N, k*4) deltas to (N, 4) boxes in pixels; returns (N, k*4) boxes."""
        _, _, weight_w, weight_h = self.weights
        no_limit = float("-inf")
        lower = deltas.new_tensor(
            [no_limit, no_limit, -self.scale_clamp * weight_w, -self.scale_clamp * weight_h]
        )
        limited = torch.maximum(deltas.unflatten(-1, (-1, 4)), lower).flatten(1)
        return super().apply_deltas(limited, boxes)
