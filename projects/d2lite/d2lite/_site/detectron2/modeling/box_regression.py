"""How a network's numbers move boxes, and the loss on them."""

import math
import warnings

import torch
from fvcore.nn import giou_loss, smooth_l1_loss

from detectron2.layers import cat, ciou_loss, diou_loss
from detectron2.structures import Boxes

# Largest log of a change of size; keeps `exp` finite.
_DEFAULT_SCALE_CLAMP = math.log(1000.0 / 16)


class Box2BoxTransform:
    """The encoding of R-CNN: shift by a fraction of the size, scale by an exponential.

    Args:
        weights: factors of (dx, dy, dw, dh).
        scale_clamp: upper limit of dw and dh, after division by their weights.
    """

    def __init__(
        self, weights: tuple[float, float, float, float], scale_clamp: float = _DEFAULT_SCALE_CLAMP
    ):
        self.weights, self.scale_clamp = weights, scale_clamp

    def get_deltas(self, src_boxes: torch.Tensor, target_boxes: torch.Tensor) -> torch.Tensor:
        """Deltas (N, 4) that move ``src_boxes`` to ``target_boxes``, both (N, 4) as x1y1x2y2."""
        src_sizes = src_boxes[:, 2:] - src_boxes[:, :2]
        target_sizes = target_boxes[:, 2:] - target_boxes[:, :2]
        assert (src_sizes[:, 0] > 0).all().item(), "Input boxes to Box2BoxTransform are not valid!"
        shifts = target_boxes[:, :2] + 0.5 * target_sizes - (src_boxes[:, :2] + 0.5 * src_sizes)
        wx, wy, ww, wh = self.weights
        dx, dy = (shifts / src_sizes).unbind(1)
        dw, dh = torch.log(target_sizes / src_sizes).unbind(1)
        return torch.stack((wx * dx, wy * dy, ww * dw, wh * dh), dim=1)

    def apply_deltas(self, deltas: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Move ``boxes`` (N, 4) by ``deltas`` (N, k*4), k sets per box; returns (N, k*4)."""
        # exp of half precision overflows early
        deltas = deltas.float()
        boxes = boxes.to(deltas.dtype)
        sizes = boxes[:, 2:] - boxes[:, :2]
        widths, heights = sizes.split(1, dim=1)
        centers_x, centers_y = (boxes[:, :2] + 0.5 * sizes).split(1, dim=1)

        wx, wy, ww, wh = self.weights
        new_x = deltas[:, 0::4] / wx * widths + centers_x
        new_y = deltas[:, 1::4] / wy * heights + centers_y
        half_w = 0.5 * torch.exp(torch.clamp(deltas[:, 2::4] / ww, max=self.scale_clamp)) * widths
        half_h = 0.5 * torch.exp(torch.clamp(deltas[:, 3::4] / wh, max=self.scale_clamp)) * heights
        corners = (new_x - half_w, new_y - half_h, new_x + half_w, new_y + half_h)
        return torch.stack(corners, dim=-1).reshape(deltas.shape)


with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # nothing else lets scripted modules hold it
    torch.jit.script(Box2BoxTransform)


class Box2BoxTransformLinear:
    """Distances from the box's centre to the four sides (FCOS, https://arxiv.org/abs/1904.01355).

    Args:
        normalize_by_size: measure them in the width and height of the source box, not in pixels.
    """

    def __init__(self, normalize_by_size=True):
        self.normalize_by_size = normalize_by_size

    def get_deltas(self, src_boxes, target_boxes):
        """Distances (left, top, right, bottom) from the source's centre to the target's sides.

        Both boxes are (N, 4); a negative distance means that the centre is outside the target.
        """
        centers = 0.5 * (src_boxes[:, :2] + src_boxes[:, 2:])
        deltas = torch.cat((centers - target_boxes[:, :2], target_boxes[:, 2:] - centers), dim=1)
        return deltas / self._unit(src_boxes)

    def apply_deltas(self, deltas, boxes):
        """Boxes (N, k*4) at ``deltas`` (N, k*4) around the centres of ``boxes`` (N, 4).

        Negative distances count as 0, so the result is always a valid box.
        """
        deltas = deltas.relu()
        boxes = boxes.to(deltas.dtype)
        centers = (0.5 * (boxes[:, :2] + boxes[:, 2:]))[:, None, :]
        distances = deltas.unflatten(1, (-1, 4)) * self._unit(boxes)[:, None, :]
        corners = torch.cat((centers - distances[..., :2], centers + distances[..., 2:]), dim=-1)
        return corners.reshape(deltas.shape)

    def _unit(self, boxes):
        """What the distances of each box are measured in, (N, 4)."""
        sizes = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        return sizes if self.normalize_by_size else torch.ones_like(sizes)


_IOU_LOSSES = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}


def _dense_box_regression_loss(
    anchors: list[Boxes | torch.Tensor],
    box2box_transform: Box2BoxTransform | Box2BoxTransformLinear,
    pred_anchor_deltas: list[torch.Tensor],
    gt_boxes: list[torch.Tensor],
    fg_mask: torch.Tensor,
    box_reg_loss_type="smooth_l1",
    smooth_l1_beta=0.0,
):
    """Sum of the box loss over the foreground of dense predictions.

    Args:
        anchors: one entry for each level, (R_i, 4); R is their total.
        box2box_transform: encoding of the predictions.
        pred_anchor_deltas: one entry for each level, (N, R_i, 4).
        gt_boxes: one entry for each of the N images, (R, 4).
        fg_mask: (N, R), which ones take part.
        box_reg_loss_type: ``"smooth_l1"`` (on deltas), or ``"giou"``, ``"diou"``, ``"ciou"``
            (on boxes).
        smooth_l1_beta: where smooth L1 turns from quadratic to linear; 0 is plain L1.
    """
    anchors = cat([a.tensor if isinstance(a, Boxes) else a for a in anchors])
    pred_deltas = cat(pred_anchor_deltas, dim=1)
    if box_reg_loss_type == "smooth_l1":
        gt_deltas = torch.stack([box2box_transform.get_deltas(anchors, gt) for gt in gt_boxes])
        return smooth_l1_loss(pred_deltas[fg_mask], gt_deltas[fg_mask], smooth_l1_beta, "sum")
    if box_reg_loss_type not in _IOU_LOSSES:
        raise ValueError(f"Invalid dense box regression loss type '{box_reg_loss_type}'")
    pred_boxes = torch.stack([box2box_transform.apply_deltas(d, anchors) for d in pred_deltas])
    iou_loss = _IOU_LOSSES[box_reg_loss_type]
    return iou_loss(pred_boxes[fg_mask], torch.stack(gt_boxes)[fg_mask], reduction="sum")
