"""COCO's run-length codes of many masks at once."""

from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_util
import torch
from torch import Tensor


def encode_masks(masks: Tensor) -> list[dict]:
    """Codes of (N, H, W) masks on the CPU.

    The codes go through columns, for which masks have to be turned; only columns with a pixel are.

    Returns:
        Dicts of ``size`` and ``counts``, which are bytes, as pycocotools' ``encode`` gives them.
    """
    if masks.dtype != torch.bool:
        masks = masks.to(torch.uint8) != 0
    height, width = masks.shape[1:]
    pixels = np.ascontiguousarray(masks.numpy()).view(np.uint8)
    filled = np.bitwise_or.reduce(pixels, axis=1)
    codes = []
    for mask, is_filled in zip(pixels, filled, strict=True):
        columns = np.flatnonzero(is_filled)
        borders = np.zeros(0, dtype=np.int64)
        if columns.size:
            first, last = columns[0], columns[-1]
            turned = mask[:, first : last + 1].T.ravel()
            borders = np.flatnonzero(turned[1:] != turned[:-1]) + 1
            ends = ([0] if turned[0] else [], [turned.size] if turned[-1] else [])
            borders = np.concatenate([ends[0], borders, ends[1]]).astype(np.int64)
            borders += first * height
        codes.append(_code(borders, (height, width)))
    return codes


def encode_segments(ids: np.ndarray, segment_ids: Sequence[int]) -> list[dict]:
    """Codes of the pixels of some ids in a map (H, W).

    The map is cut into runs once, instead of being compared with every id.

    Returns:
        Dicts as of `encode_masks`.
    """
    turned = ids.T.ravel()
    starts = np.flatnonzero(turned[1:] != turned[:-1]) + 1
    starts = np.concatenate([[0], starts]) if turned.size else starts
    ends = np.append(starts[1:], turned.size)
    values = turned[starts]
    codes = []
    for segment_id in segment_ids:
        own = values == segment_id
        borders = np.stack([starts[own], ends[own]], axis=1).ravel()
        codes.append(_code(borders, ids.shape))
    return codes


def _code(borders: np.ndarray, size: tuple[int, int]) -> dict:
    """Code of a mask (H, W) from where its runs begin and end, in turn, column by column."""
    total = size[0] * size[1]
    counts = np.diff(borders, prepend=0, append=total).tolist()
    if borders.size and not counts[-1]:
        counts.pop()
    return mask_util.frPyObjects({"counts": counts, "size": list(size)}, *size)
