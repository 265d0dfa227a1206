"""Choice of proposals, and ground truth among them."""

import math

import torch

from detectron2.layers import batched_nms, cat
from detectron2.structures import Boxes, Instances


def find_top_rpn_proposals(
    proposals: list[torch.Tensor],
    pred_objectness_logits: list[torch.Tensor],
    image_sizes: list[tuple[int, int]],
    nms_thresh: float,
    pre_nms_topk: int,
    post_nms_topk: int,
    min_box_size: float,
    training: bool,
) -> list[Instances]:
    """Keep the best proposals of every image.

    The best of every level are clipped to the image; small boxes, and those that a better one of
    the same level overlaps, are dropped.

    Args:
        proposals: boxes (B, N_i, 4) of every level.
        pred_objectness_logits: (B, N_i) of every level.
        image_sizes: (height, width) of every image.
        nms_thresh: IoU above which the weaker of two boxes is dropped.
        pre_nms_topk: how many to keep of each level before that.
        post_nms_topk: how many to keep of each image in the end, over all levels.
        min_box_size: smallest width and height, in pixels of the network's input.
        training: whether a box that isn't finite is an error, or just dropped.

    Returns:
        for every image `Instances` with ``proposal_boxes`` and ``objectness_logits``, best first.

    Raises:
        FloatingPointError: in training, if a box or score is infinite or NaN.
    """
    boxes, scores, level_ids = [], [], []
    for level, (boxes_i, logits_i) in enumerate(
        zip(proposals, pred_objectness_logits, strict=True)
    ):
        count = _at_most(logits_i, pre_nms_topk)
        scores_i, order = logits_i.topk(count, dim=1)
        boxes.append(boxes_i.gather(1, order[:, :, None].expand(-1, -1, boxes_i.shape[2])))
        scores.append(scores_i)
        level_ids.append(torch.full_like(order[0], level))
    boxes, scores, level_ids = cat(boxes, dim=1), cat(scores, dim=1), cat(level_ids)
    return [
        _select_proposals(
            boxes[n],
            scores[n],
            level_ids,
            image_size,
            nms_thresh,
            post_nms_topk,
            min_box_size,
            training,
        )
        for n, image_size in enumerate(image_sizes)
    ]


def _at_most(logits, limit):
    """Length of a level, limited; a tensor in tracing, so that it isn't baked into the graph."""
    length = logits.shape[1]
    return (
        torch.clamp(length, max=limit) if isinstance(length, torch.Tensor) else min(length, limit)
    )


def _select_proposals(boxes, scores, levels, image_size, nms_thresh, topk, min_box_size, training):
    """Filter the candidates (N, 4) of one image; see `find_top_rpn_proposals`."""
    finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)
    if not finite.all():
        if training:
            raise FloatingPointError(
                "Predicted boxes or scores contain Inf/NaN. Training has diverged."
            )
        boxes, scores, levels = boxes[finite], scores[finite], levels[finite]
    boxes = Boxes(boxes)
    boxes.clip(image_size)

    keep = boxes.nonempty(threshold=min_box_size)
    if torch.jit.is_tracing() or not keep.all():
        boxes, scores, levels = boxes[keep], scores[keep], levels[keep]
    keep = batched_nms(boxes.tensor, scores, levels, nms_thresh)[:topk]

    result = Instances(image_size)
    result.proposal_boxes = boxes[keep]
    result.objectness_logits = scores[keep]
    return result


def add_ground_truth_to_proposals(
    gt: list[Instances] | list[Boxes], proposals: list[Instances]
) -> list[Instances]:
    """Append to each image's proposals its ground-truth boxes, with a probability close to 1.

    Useful in training: with a bad proposal generator there are positive examples all the same.

    Args:
        gt: of every image: `Boxes`, or `Instances` with ``gt_boxes``.
        proposals: of every image, with ``proposal_boxes`` and ``objectness_logits``. Any
            further field must also be in ``gt``.
    """
    assert gt is not None, "ground truth is needed to add it to the proposals, but it is None"
    if len(proposals) != len(gt):
        raise ValueError("proposals and gt should have the same length as the number of images!")
    return [
        add_ground_truth_to_proposals_single_image(gt_i, proposals_i)
        for gt_i, proposals_i in zip(gt, proposals, strict=True)
    ]


def add_ground_truth_to_proposals_single_image(
    gt: Instances | Boxes, proposals: Instances
) -> Instances:
    """`add_ground_truth_to_proposals` for one image."""
    if isinstance(gt, Boxes):
        gt = Instances(proposals.image_size, gt_boxes=gt)
    logits = proposals.objectness_logits
    probability = 1.0 - 1e-10
    gt_proposal = Instances(proposals.image_size, **gt.get_fields())
    gt_proposal.proposal_boxes = gt.gt_boxes
    gt_proposal.objectness_logits = torch.full(
        (len(gt.gt_boxes),), math.log(probability / (1 - probability)), device=logits.device
    )
    for key in proposals.get_fields():
        assert gt_proposal.has(key), f"The attribute '{key}' in `proposals` does not exist in `gt`"
    # Only the fields of the first survive: the ground truth's own are left out here.
    return Instances.cat([proposals, gt_proposal])
