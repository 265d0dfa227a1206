"""Pasting of square mask predictions into images."""

import torch
from torch import Tensor

# Bytes that the sampled masks of one chunk may take on a GPU, in float32.
GPU_MEM_LIMIT = 1024**3


def _do_paste_mask(masks: Tensor, boxes: Tensor, img_h: int, img_w: int, skip_empty: bool = True):
    """Sample masks at the centres of the image's pixels.

    Args:
        masks: (N, 1, M, M).
        boxes: (N, 4).
        img_h: height of the image.
        img_w: width of the image.
        skip_empty: sample only the part of the image that the boxes touch; the rest is 0.

    Returns:
        Masks (N, h, w), and the first row and column of the image that they cover.
    """
    x_first, y_first, x_last, y_last = 0, 0, img_w, img_h
    if skip_empty and not torch.jit.is_scripting():
        # A pixel more on each side: samples reach half a mask pixel beyond the box.
        x_first, y_first = (boxes[:, :2].amin(0).floor() - 1).clamp(min=0).int()
        x_last, y_last = boxes[:, 2:].amax(0).ceil() + 1
        x_last = x_last.clamp(max=img_w).int().maximum(x_first)
        y_last = y_last.clamp(max=img_h).int().maximum(y_first)
    x0, y0, x1, y1 = torch.split(boxes, 1, dim=1)
    x = torch.arange(x_first, x_last, device=masks.device, dtype=torch.float32) + 0.5
    y = torch.arange(y_first, y_last, device=masks.device, dtype=torch.float32) + 0.5
    x = (x - x0) / (x1 - x0) * 2 - 1  # grid_sample's coordinates: -1..1 over the mask
    y = (y - y0) / (y1 - y0) * 2 - 1
    shape = (masks.shape[0], y.shape[1], x.shape[1])
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=3)
    masks = masks if masks.is_floating_point() else masks.float()
    sampled = torch.nn.functional.grid_sample(masks, grid.to(masks.dtype), align_corners=False)
    return sampled[:, 0], y_first, x_first


@torch.jit.script_if_tracing
def paste_masks_in_image(
    masks: Tensor, boxes: Tensor, image_shape: tuple[int, int], threshold: float = 0.5
) -> Tensor:
    """Resize every mask to its box and put it into an image of zeros.

    Args:
        masks: scores 0..1, (N, M, M).
        boxes: Boxes or a tensor (N, 4), in pixels of the image.
        image_shape: height and width of the image.
        threshold: score from which on a pixel belongs to the mask; below 0 the scores themselves
            are returned, times 255.

    Returns:
        (N, height, width), bool, or uint8 for a negative threshold or no masks at all.
    """
    assert masks.shape[-1] == masks.shape[-2], "Only square mask predictions are supported"
    N = len(masks)
    img_h, img_w = image_shape
    if N == 0:
        return torch.empty([0, img_h, img_w], dtype=torch.uint8, device=masks.device)
    if not isinstance(boxes, Tensor):
        boxes = boxes.tensor
    assert len(boxes) == N, boxes.shape

    on_cpu = boxes.device.type == "cpu"
    # One by one, with the rest of the image skipped, is fastest on a CPU; a GPU wants all at once.
    chunk = 1
    if not on_cpu and not torch.jit.is_scripting():
        chunk = max(1, GPU_MEM_LIMIT // (img_h * img_w * 4))
    dtype = torch.bool if threshold >= 0 else torch.uint8
    result = torch.zeros([N, img_h, img_w], dtype=dtype, device=boxes.device)
    for first in range(0, N, chunk):
        part, part_boxes = masks[first : first + chunk, None], boxes[first : first + chunk]
        sampled, y, x = _do_paste_mask(part, part_boxes, img_h, img_w, skip_empty=on_cpu)
        height, width = sampled.shape[1:]
        sampled = sampled >= threshold if threshold >= 0 else (sampled * 255).to(torch.uint8)
        result[first : first + chunk, y : y + height, x : x + width] = sampled
    return result


@torch.jit.script_if_tracing
def _paste_masks_tensor_shape(
    masks: Tensor, boxes: Tensor, image_shape: tuple[Tensor, Tensor], threshold: float = 0.5
) -> Tensor:
    """``paste_masks_in_image`` whose image shape stays an input of a traced graph."""
    return paste_masks_in_image(masks, boxes, (int(image_shape[0]), int(image_shape[1])), threshold)
