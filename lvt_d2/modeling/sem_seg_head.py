"""Semantic branch of Panoptic FPN with the published training's loss as an option; that loss."""

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
        loss = mean_cross_entropy(predictions, targets, self.ignore_value, self.mean_over_ignored)
        return {"loss_sem_seg": loss * self.loss_weight}


def mean_cross_entropy(
    logits: Tensor, labels: Tensor, ignore_value: int, over_ignored: bool
) -> Tensor:
    """Cross entropy of (B, K, H, W) logits against (B, H, W) labels; 0 where no pixel counts.

    Args:
        logits: in full precision.
        labels: 0..K-1, or ``ignore_value``, which adds nothing to the sum.
        ignore_value: label of pixels that don't count.
        over_ignored: divide the sum by the number of all pixels; else by that of those that count.
    """
    total = F.cross_entropy(logits, labels, reduction="sum", ignore_index=ignore_value)
    if over_ignored:
        return total / max(labels.numel(), 1)
    return total / (labels != ignore_value).sum().clamp(min=1)
