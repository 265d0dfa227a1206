"""From the network's coordinates to those of the wanted output."""

import torch

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
    size = (output_height, output_width)
    # In tracing sizes are tensors of integers: the product makes them floats.
    scale_y = 1.0 * output_height / results.image_size[0]
    scale_x = 1.0 * output_width / results.image_size[1]
    traced = isinstance(output_width, torch.Tensor)
    results = Instances(torch.stack(size) if traced else size, **results.get_fields())
    name = "pred_boxes" if results.has("pred_boxes") else "proposal_boxes"
    assert results.has(name), "Predictions must contain boxes!"
    output_boxes = results.get(name)
    output_boxes.scale(scale_x, scale_y)
    output_boxes.clip(results.image_size)
    results = results[output_boxes.nonempty()]

    if results.has("pred_masks"):
        masks = results.pred_masks
        masks = masks if isinstance(masks, ROIMasks) else ROIMasks(masks[:, 0, :, :])
        results.pred_masks = masks.to_bitmasks(results.pred_boxes, *size, mask_threshold).tensor
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
    size = (output_height, output_width)
    return torch.nn.functional.interpolate(result, size, mode="bilinear", align_corners=False)[0]
