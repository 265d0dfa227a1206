"""Non-maximum suppression."""

from torch import Tensor
from torchvision.ops import boxes as box_ops, nms  # noqa: F401


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression among the boxes of the same group.

    Args:
        boxes: (N, 4) as (x0, y0, x1, y1).
        scores: (N,).
        idxs: group of each box, such as its class, (N,).
        iou_threshold: a box that overlaps a better one by more is dropped.

    Returns:
        Indices of the boxes kept, int64, best first.
    """
    assert boxes.shape[-1] == 4, f"boxes must be (N, 4), got {boxes.shape}"
    # Half precision can't tell pixels above 2048 apart, and groups are told apart by shifts.
    return box_ops.batched_nms(boxes.float(), scores.float(), idxs, iou_threshold)
