"""Semantic branch of Panoptic FPN with the published training's loss as an option."""

import torch.nn.functional as F
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import Tensor


class PanopticSemSegHead(SemSegFPNHead):
    """Detectron2's ``SemSegFPNHead`` with a choice of resolution and mean for the loss.

    Args:
        input_shape: shapes of the features, as for ``SemSegFPNHead``.
        loss_at_stride: compare the logits as they are with every ``common_stride``-th pixel of the
            labels (published); else upsample them to the labels (Detectron2).
        mean_over_ignored: divide the summed loss by the number of all pixels (published); else
            by that of the labelled ones (Detectron2).
        **kwargs: as for ``SemSegFPNHead``.
    """

    def __init__(
        self, input_shape, *, loss_at_stride: bool = True, mean_over_ignored: bool = True, **kwargs
    ):
        super().__init__(input_shape=input_shape, **kwargs)
        self.loss_at_stride = loss_at_stride
        self.mean_over_ignored = mean_over_ignored

    def losses(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Cross entropy of (B, K, H/4, W/4) logits against (B, H, W) labels, weighted."""
        predictions = predictions.float()  # autocast leaves them in half precision
        stride = self.common_stride
        if self.loss_at_stride:
            targets = targets[:, ::stride, ::stride]
        else:
            predictions = F.interpolate(
                predictions, scale_factor=stride, mode="bilinear", align_corners=False
            )
        loss = F.cross_entropy(
            predictions, targets, reduction="sum", ignore_index=self.ignore_value
        )
        counted = targets if self.mean_over_ignored else targets[targets != self.ignore_value]
        return {"loss_sem_seg": loss / max(counted.numel(), 1) * self.loss_weight}
