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
    boxes, scores, levels = [], [], []
    pairs = zip(proposals, pred_objectness_logits, strict=True)
    for level, (boxes_i, logits_i) in enumerate(pairs):
        count = logits_i.shape[1]
        # In tracing a tensor, which must not be baked into the graph.
        traced = isinstance(count, torch.Tensor)
        count = count.clamp(max=pre_nms_topk) if traced else min(count, pre_nms_topk)
        scores_i, order = logits_i.topk(count, dim=1)
        boxes.append(boxes_i.gather(1, order[:, :, None].expand(-1, -1, boxes_i.shape[2])))
        scores.append(scores_i)
        levels.append(torch.full_like(order[0], level))
    boxes, scores, levels = cat(boxes, dim=1), cat(scores, dim=1), cat(levels)
    limits = (nms_thresh, post_nms_topk, min_box_size, training)
    return [
        _select_proposals(boxes[n], scores[n], levels, image_size, *limits)
        for n, image_size in enumerate(image_sizes)
    ]


def _select_proposals(boxes, scores, levels, image_size, nms_thresh, topk, min_box_size, training):
    """Filter the candidates (N, 4) of one image; see `find_top_rpn_proposals`."""
    finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)
    if not finite.all():
        if training:
            raise FloatingPointError("Boxes or scores contain Inf/NaN. Training has diverged.")
        boxes, scores, levels = boxes[finite], scores[finite], levels[finite]
    boxes = Boxes(boxes)
    boxes.clip(image_size)
    keep = boxes.nonempty(threshold=min_box_size)
    boxes, scores, levels = boxes[keep], scores[keep], levels[keep]
    keep = batched_nms(boxes.tensor, scores, levels, nms_thresh)[:topk]
    return Instances(image_size, proposal_boxes=boxes[keep], objectness_logits=scores[keep])


def add_ground_truth_to_proposals(gt, proposals: list[Instances]) -> list[Instances]:
    """Append to each image's proposals its ground-truth boxes, with a probability close to 1.

    Useful in training: with a bad proposal generator there are positive examples all the same.

    Args:
        gt: of every image: `Boxes`, or `Instances` with ``gt_boxes``.
        proposals: of every image, with ``proposal_boxes`` and ``objectness_logits``. Any
            further field must also be in ``gt``.
    """
    assert gt is not None
    if len(proposals) != len(gt):
        raise ValueError("proposals and gt should have the same length as the number of images!")
    return list(map(add_ground_truth_to_proposals_single_image, gt, proposals))


def add_ground_truth_to_proposals_single_image(gt, proposals: Instances) -> Instances:
    """`add_ground_truth_to_proposals` for one image."""
    if isinstance(gt, Boxes):
        gt = Instances(proposals.image_size, gt_boxes=gt)
    logit = math.log((1.0 - 1e-10) / (1 - (1.0 - 1e-10)))
    gt_proposal = Instances(proposals.image_size, **gt.get_fields())
    gt_proposal.proposal_boxes = gt.gt_boxes
    device = proposals.objectness_logits.device
    gt_proposal.objectness_logits = torch.full((len(gt.gt_boxes),), logit, device=device)
    for key in proposals.get_fields():
        assert gt_proposal.has(key), f"The attribute '{key}' in `proposals` does not exist in `gt`"
    # Only the fields of the first survive: the ground truth's own are left out here.
    return Instances.cat([proposals, gt_proposal])
