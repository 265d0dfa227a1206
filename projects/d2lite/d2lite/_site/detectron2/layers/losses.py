"""Losses between matched boxes that see more than their overlap."""

import math

import torch
from torch import Tensor


def diou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """Distance-IoU loss (arXiv 1911.08287, equation 7).

    1 - IoU + squared distance of the centres / squared diagonal of the box around both.

    Args:
        boxes1: predictions (N, 4) or (4,) as (x0, y0, x1, y1).
        boxes2: their targets, of the same shape.
        reduction: "none", "mean" (0 where there are no boxes) or "sum".
        eps: added to denominators.

    Returns:
        (N,), or a scalar.

    Raises:
        AssertionError: a predicted box with x1 < x0 or y1 < y0.
    """
    iou, distance = _overlap_and_distance(boxes1, boxes2, eps)
    return _reduce(1 - iou + distance, reduction)


def ciou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """Complete-IoU loss (arXiv 1911.08287, equations 8 to 11).

    Distance-IoU loss + alpha * v, where v measures the difference of the aspect ratios and its
    weight alpha gets no gradient. Arguments as in `diou_loss`.
    """
    iou, distance = _overlap_and_distance(boxes1, boxes2, eps)
    (w1, h1), (w2, h2) = ((b[..., 2:] - b[..., :2]).unbind(-1) for b in (boxes1, boxes2))
    v = (4 / math.pi**2) * (torch.atan(w2 / h2) - torch.atan(w1 / h1)) ** 2
    with torch.no_grad():
        alpha = v / (1 - iou + v + eps)
    return _reduce(1 - iou + distance + alpha * v, reduction)


def _overlap_and_distance(boxes1: Tensor, boxes2: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """IoU, and squared distance of the centres over the squared diagonal around both boxes."""
    (start1, end1), (start2, end2) = (b.split(2, dim=-1) for b in (boxes1, boxes2))
    if not torch.compiler.is_compiling():
        assert (end1 >= start1).all(), "bad box: x1 larger than x2 or y1 larger than y2"
    shared = torch.min(end1, end2) - torch.max(start1, start2)
    # Boxes apart get no gradient from their overlap.
    shared = torch.where((shared > 0).all(-1), shared.prod(-1), 0.0)
    union = (end1 - start1).prod(-1) + (end2 - start2).prod(-1) - shared + eps
    diagonal = ((torch.max(end1, end2) - torch.min(start1, start2)) ** 2).sum(-1) + eps
    distance = ((start1 + end1 - start2 - end2) ** 2).sum(-1) / 4
    return shared / union, distance / diagonal


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return loss.mean() if loss.numel() > 0 else 0.0 * loss.sum()
    return loss.sum() if reduction == "sum" else loss
