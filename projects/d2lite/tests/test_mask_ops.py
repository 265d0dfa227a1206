"""Pasting of masks, against a loop over pixels."""

import numpy as np
import pytest
import torch
from detectron2.layers import mask_ops, paste_masks_in_image
from detectron2.layers.mask_ops import _do_paste_mask, _paste_masks_tensor_shape
from detectron2.structures import Boxes
from hypothesis import given, settings, strategies as st


def paste_slowly(mask, box, height, width):
    """Bilinear interpolation of one mask, 0 outside it, at every pixel's centre."""
    side = mask.shape[0]
    padded = np.pad(mask.astype(np.float64), 1)
    result = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            x = (column + 0.5 - box[0]) / (box[2] - box[0]) * side + 0.5  # in padded pixels
            y = (row + 0.5 - box[1]) / (box[3] - box[1]) * side + 0.5
            if not (0 <= x < side + 1 and 0 <= y < side + 1):
                continue
            j, i = int(x), int(y)
            u, v = x - j, y - i
            top = padded[i, j] * (1 - u) + padded[i, j + 1] * u
            bottom = padded[i + 1, j] * (1 - u) + padded[i + 1, j + 1] * u
            result[row, column] = top * (1 - v) + bottom * v
    return result


def sample(n=4, side=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(n, side, side, generator=generator)
    boxes = torch.rand(n, 4, generator=generator) * torch.tensor([20.0, 15, 12, 12])
    boxes[:, 2:] += boxes[:, :2] + 1
    return masks, boxes


def test_against_the_slow_one():
    masks, boxes = sample()
    expected = [
        paste_slowly(m.numpy(), b.numpy(), 18, 24) for m, b in zip(masks, boxes, strict=True)
    ]
    pasted = paste_masks_in_image(masks, boxes, (18, 24))
    assert pasted.shape == (4, 18, 24) and pasted.dtype == torch.bool
    for got, score in zip(pasted.numpy(), expected, strict=True):
        sure = abs(score - 0.5) > 1e-4
        assert np.array_equal(got[sure], score[sure] >= 0.5)
    scores = paste_masks_in_image(masks, boxes, (18, 24), threshold=-1)
    assert scores.dtype == torch.uint8
    np.testing.assert_allclose(scores.numpy(), np.stack(expected) * 255, atol=1.01)


@settings(max_examples=40, deadline=None)
@given(
    st.floats(-20, 30),
    st.floats(-20, 30),
    st.floats(0.5, 40),
    st.floats(0.5, 40),
    st.integers(1, 5),
)
def test_skipping_changes_nothing(x, y, width, height, side):
    masks = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(side))
    boxes = torch.tensor([[x, y, x + width, y + height]])
    whole, *start = _do_paste_mask(masks, boxes, 12, 16, skip_empty=False)
    assert start == [0, 0] and whole.shape == (1, 12, 16)
    part, top, left = _do_paste_mask(masks, boxes, 12, 16, skip_empty=True)
    where = slice(top, top + part.shape[1]), slice(left, left + part.shape[2])
    filled = torch.zeros_like(whole)
    filled[(slice(None), *where)] = part
    # Beyond twice the box's half side + a mask pixel there is nothing to sample.
    if side >= max(width, height) / 2:
        torch.testing.assert_close(filled, whole)
    assert torch.equal(part, whole[(slice(None), *where)])


def test_all_at_once_is_one_by_one():
    masks, boxes = sample()
    together, *_ = _do_paste_mask(masks[:, None], boxes, 18, 24, skip_empty=False)
    assert torch.equal(together >= 0.5, paste_masks_in_image(masks, boxes, (18, 24)))


def test_a_full_mask_fills_its_box():
    boxes = torch.tensor([[2.0, 3, 8, 9]])
    pasted = paste_masks_in_image(torch.ones(1, 28, 28), boxes, (12, 10))
    expected = torch.zeros(1, 12, 10, dtype=torch.bool)
    expected[:, 3:9, 2:8] = True
    assert torch.equal(pasted, expected)


@pytest.mark.parametrize(
    "box", [[-30, -30, -20, -20], [40, 2, 50, 8], [2, 40, 8, 50], [-9, 2, -3, 8]]
)
def test_a_box_outside_the_image(box):
    pasted = paste_masks_in_image(torch.ones(1, 4, 4), torch.tensor([box]).float(), (12, 10))
    assert pasted.shape == (1, 12, 10) and not pasted.any()


def test_boxes_and_tensors():
    masks, boxes = sample()
    pasted = paste_masks_in_image(masks, boxes, (18, 24))
    assert torch.equal(paste_masks_in_image(masks, Boxes(boxes), (18, 24)), pasted)
    binary = (masks > 0.5).long()
    assert torch.equal(
        paste_masks_in_image(binary, boxes, (18, 24)),
        paste_masks_in_image(binary.float(), boxes, (18, 24)),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    masks, boxes = sample(side=28)
    exact = paste_masks_in_image(masks, boxes, (18, 24))
    assert (paste_masks_in_image(masks.to(dtype), boxes, (18, 24)) == exact).float().mean() > 0.97


def test_nothing_to_paste():
    empty = paste_masks_in_image(torch.zeros(0, 28, 28), torch.zeros(0, 4), (5, 6))
    assert empty.shape == (0, 5, 6) and empty.dtype == torch.uint8


def test_refuses():
    with pytest.raises(AssertionError, match="square"):
        paste_masks_in_image(torch.zeros(1, 4, 5), torch.zeros(1, 4), (5, 5))
    with pytest.raises(AssertionError):
        paste_masks_in_image(torch.zeros(2, 4, 4), torch.zeros(1, 4), (5, 5))


def test_scripted_and_traced():
    masks, boxes = sample()
    expected = paste_masks_in_image(masks, boxes, (18, 24))
    script = torch.jit.script(mask_ops.paste_masks_in_image)
    assert torch.equal(script(masks, boxes, (18, 24)), expected)
    assert script(masks[:0], boxes[:0], (18, 24)).shape == (0, 18, 24)

    def paste(masks, boxes, height, width):
        return _paste_masks_tensor_shape(masks, boxes, (height, width))

    size = torch.tensor(9), torch.tensor(9)
    traced = torch.jit.trace(paste, (masks, boxes, *size), check_trace=False)
    assert torch.equal(traced(masks, boxes, torch.tensor(18), torch.tensor(24)), expected)
    assert traced(masks[:1], boxes[:1], torch.tensor(5), torch.tensor(7)).shape == (1, 5, 7)
