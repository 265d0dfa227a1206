"""Run-length codes are those of pycocotools."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch

from lvt_d2.evaluation.run_lengths import encode_masks, encode_segments


def expected(mask):
    return mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))


@pytest.mark.parametrize("size", [(7, 9), (1, 20), (20, 1), (1, 1), (40, 33)])
def test_masks(size):
    rng = np.random.default_rng(0)
    masks = np.stack([rng.random(size) < share for share in (0, 0.02, 0.5, 0.98, 1)])
    codes = [expected(mask) for mask in masks]
    assert encode_masks(torch.from_numpy(masks)) == codes
    assert encode_masks(torch.from_numpy(masks).to(torch.uint8)) == codes
    strided = torch.from_numpy(masks.transpose(0, 2, 1).copy()).transpose(1, 2)
    assert encode_masks(strided) == codes


def test_no_masks_and_empty_ones():
    assert encode_masks(torch.zeros(0, 4, 5, dtype=torch.bool)) == []
    for code in encode_masks(torch.zeros(2, 0, 5, dtype=torch.bool)):
        assert code["size"] == [0, 5] and mask_util.area(code) == 0


@pytest.mark.parametrize("size", [(7, 9), (1, 20), (20, 1), (40, 33)])
def test_segments(size):
    ids = np.random.default_rng(1).integers(0, 4, size).astype(np.int32) * 1000
    wanted = [2000, 0, 3000, 17]
    assert encode_segments(ids, wanted) == [expected(ids == i) for i in wanted]
    assert encode_segments(ids, []) == []
    assert encode_segments(np.full(size, 5), [5, 6]) == [expected(np.ones(size)), expected(ids < 0)]
