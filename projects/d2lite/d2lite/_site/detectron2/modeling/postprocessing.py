"""From the network's coordinates to those of the wanted output."""

import torch
from torch.nn import functional as F

from detectron2.structures import Instances, ROIMasks


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
):
    """Bring detections from the size the network saw to a wanted size, usually the original one.

    Boxes are scaled in place and clipped, empty ones dropped with their detections; box-sized
    masks become masks of the whole image.

    Args:
        results: with ``pred_boxes`` or ``proposal_boxes``, maybe ``pred_masks`` (N, 1, M, M).
        output_height: in pixels.
        output_width: in pixels.
        mask_threshold: probability from which a pixel belongs to the mask.

    Returns:
        `Instances` of the wanted size; ``pred_masks`` is bool (N, output_height, output_width).
    """
    if isinstance(output_width, torch.Tensor):
        # In tracing sizes are tensors, and the division below must be recorded in floats.
        new_size = torch.stack([output_height, output_width])
        scale_y = output_height.float() / results.image_size[0]
        scale_x = output_width.float() / results.image_size[1]
    else:
        new_size = (output_height, output_width)
        scale_y = output_height / results.image_size[0]
        scale_x = output_width / results.image_size[1]

    results = Instances(new_size, **results.get_fields())
    if results.has("pred_boxes"):
        output_boxes = results.pred_boxes
    elif results.has("proposal_boxes"):
        output_boxes = results.proposal_boxes
    else:
        raise AssertionError("Predictions must contain boxes!")
    output_boxes.scale(scale_x, scale_y)
    output_boxes.clip(results.image_size)
    results = results[output_boxes.nonempty()]

    if results.has("pred_masks"):
        masks = results.pred_masks
        if not isinstance(masks, ROIMasks):
            masks = ROIMasks(masks[:, 0, :, :])
        bitmasks = masks.to_bitmasks(
            results.pred_boxes, output_height, output_width, mask_threshold
        )
        results.pred_masks = bitmasks.tensor
    if results.has("pred_keypoints"):
        results.pred_keypoints[:, :, 0] *= scale_x
        results.pred_keypoints[:, :, 1] *= scale_y
    return results


def sem_seg_postprocess(result: torch.Tensor, img_size, output_height: int, output_width: int):
    """Cut the padding off one image's logits and resize them to a wanted size.

    Args:
        result: (C, H, W), with padding at the right and the bottom.
        img_size: (height, width) of the image without padding.
        output_height: in pixels.
        output_width: in pixels.

    Returns:
        logits (C, output_height, output_width), bilinear.
    """
    result = result[:, : img_size[0], : img_size[1]].expand(1, -1, -1, -1)
    return F.interpolate(
        result, size=(output_height, output_width), mode="bilinear", align_corners=False
    )[0]
