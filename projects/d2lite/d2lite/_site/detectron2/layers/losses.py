"""Losses between matched boxes that see more than their overlap."""

from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss


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
    assert (boxes1[..., 2:] >= boxes1[..., :2]).all(), "bad box: x1 or y1 larger than x2 or y2"
    return distance_box_iou_loss(boxes1, boxes2, reduction, eps)


def ciou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """Complete-IoU loss (arXiv 1911.08287, equations 8 to 11).

    Distance-IoU loss + alpha * v, where v measures the difference of the aspect ratios and its
    weight alpha gets no gradient. Arguments as in `diou_loss`.
    """
    assert (boxes1[..., 2:] >= boxes1[..., :2]).all(), "bad box: x1 or y1 larger than x2 or y2"
    return complete_box_iou_loss(boxes1, boxes2, reduction, eps)
