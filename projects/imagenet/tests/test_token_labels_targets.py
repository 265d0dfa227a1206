"""Targets of crops: recorded numbers, RoIAlign, and where things are."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from lvt_imagenet.token_labels import TokenLabels, TokenLabelTarget, mixup_targets
from torchvision.ops import roi_align

TOLERANCE = 1e-5  # of the recorded numbers


def _labels(scores, indices, crop, ground_truth=None, flips=None):
    B = len(scores)
    return TokenLabels(
        scores=scores,
        indices=indices.int(),
        crop=crop,
        flips=torch.zeros(B, 2, dtype=torch.bool) if flips is None else flips,
        ground_truth=torch.zeros(B, dtype=torch.long) if ground_truth is None else ground_truth,
    )


def _random(B=3, K=20, H=9, W=9, seed=0, least=0.3):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(B, 5, H, W, generator=generator)
    indices = torch.rand(B, K, H, W, generator=generator).topk(5, dim=1).indices
    size = least + torch.rand(B, 2, generator=generator) * (1 - least)
    crop = torch.cat([torch.rand(B, 2, generator=generator) * (1 - size), size], dim=1)
    return _labels(scores, indices, crop)


def _by_roi_align(labels, K, size, smoothing, swapped=False):
    """The same by torchvision, on the dense map; columns 1 and up."""
    B, _, H, W = labels.scores.shape
    dense = torch.zeros(B, K, H, W).scatter_(1, labels.indices.long(), labels.scores.float())
    top, left, height, width = labels.crop.unbind(1)
    corners = [left * W, top * H, (left + width) * W, (top + height) * H]
    if swapped:
        corners = [top * W, left * H, (top + height) * W, (left + width) * H]
    boxes = torch.stack([torch.arange(float(B)), *(c - 0.5 for c in corners)], dim=1)
    parts = [roi_align(dense, boxes, s).flatten(2) for s in ((1, 1), size)]
    return torch.cat(parts, 2).softmax(1) * (1 - smoothing) + smoothing / K


@pytest.fixture(scope="module")
def recorded(goldens):
    arrays = np.load(goldens / "official" / "clsextra.npz")
    names = ("score", "index", "ijhw_rel", "gt")
    return _labels(*(torch.from_numpy(arrays[f"tlt_in_{n}"]) for n in names)), arrays


def test_recorded_targets_with_the_official_order(recorded):
    labels, arrays = recorded
    target = TokenLabelTarget(1000, 7, 0.1, official_crop_order=True)(labels)
    assert target.shape == (4, 1000, 51)
    expected = torch.from_numpy(arrays["tlt_target_size7"])
    torch.testing.assert_close(target[:2], expected, atol=TOLERANCE, rtol=0)


def test_recorded_targets_of_size_1_and_mixed(recorded):
    labels, arrays = recorded
    target = TokenLabelTarget(1000, 1, 0.1, official_crop_order=True)(labels)
    expected = torch.from_numpy(arrays["tlt_target_size1"])
    torch.testing.assert_close(target, expected, atol=TOLERANCE, rtol=0)
    expected = torch.from_numpy(arrays["tlt_mixup_target_size1_lam0.7"])
    torch.testing.assert_close(mixup_targets(target, 0.7), expected, atol=TOLERANCE, rtol=0)


def test_the_official_order_is_not_the_default(recorded):
    labels, arrays = recorded
    target = TokenLabelTarget(1000, 7, 0.1)(labels)
    expected = torch.from_numpy(arrays["tlt_target_size7"])
    assert (target[0] - expected[0]).abs().max() > 0.01, "this crop is not square"
    whole_image = 1
    torch.testing.assert_close(target[whole_image], expected[whole_image], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [7, 2, (3, 5)])
@pytest.mark.parametrize(("H", "W"), [(18, 18), (9, 14), (2, 2)])
@pytest.mark.parametrize("swapped", [False, True])
def test_it_is_roi_align(size, H, W, swapped):
    labels = _random(H=H, W=W, least=0.51)
    target = TokenLabelTarget(20, size, 0.1, official_crop_order=swapped)(labels)
    shape = (size, size) if isinstance(size, int) else size
    expected = _by_roi_align(labels, 20, shape, 0.1, swapped)
    torch.testing.assert_close(target[:, :, 1:], expected, atol=1e-6, rtol=0)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_it_is_roi_align_for_any_crop(data):
    H, W, S = (data.draw(st.integers(1, 12)) for _ in range(3))
    S += 1
    height, width = (data.draw(st.floats(1 / min(H, W), 1)) for _ in range(2))
    top, left = (data.draw(st.floats(0, 1)) * (1 - side) for side in (height, width))
    labels = _random(B=1, K=7, H=H, W=W)
    labels.crop = torch.tensor([[top, left, height, width]], dtype=torch.float32)
    target = TokenLabelTarget(7, S, 0.0)(labels)
    expected = _by_roi_align(labels, 7, (S, S), 0.0)
    # How many samples a cell gets jumps where its side is a whole number; both round there.
    sides = [labels.crop[0, 2] * H, labels.crop[0, 3] * W]
    if all(abs(float(s) / n - round(float(s) / n)) > 1e-5 for s in sides for n in (1, S)):
        torch.testing.assert_close(target[:, :, 1:], expected, atol=1e-5, rtol=0)


def _coordinates(cells):
    """A map whose scores of classes 0 and 1 are the row and column in fractions of the image."""
    place = (torch.arange(cells) + 0.5) / cells
    scores = torch.stack([place[:, None].expand(cells, cells), place.expand(cells, cells)])
    return scores[None].double(), torch.arange(2)[None, :, None, None].expand(1, 2, cells, cells)


def _read_coordinates(target):
    """Rows and columns (S, S) out of the probabilities of classes 0, 1, and 2 with score 0."""
    logits = (target[0, :, 2:] / target[0, 2:3, 2:]).log()
    S = math.isqrt(logits.shape[1])
    return logits[0].view(S, S), logits[1].view(S, S)


@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("vflip", [False, True])
def test_labels_lie_where_the_image_shows_them(hflip, vflip):
    """Away from the border, tokens get exactly the place of their centres in the image."""
    scores, indices = _coordinates(18)
    top, left, height, width = 0.2, 0.4, 0.3, 0.5
    crop, flips = torch.tensor([[top, left, height, width]]), torch.tensor([[hflip, vflip]])
    labels = _labels(scores, indices, crop, flips=flips)
    rows, columns = _read_coordinates(TokenLabelTarget(3, 7, 0.0)(labels))
    centre = (torch.arange(7) + 0.5) / 7
    y = top + height * (centre.flip(0) if vflip else centre)
    x = left + width * (centre.flip(0) if hflip else centre)
    torch.testing.assert_close(rows, y[:, None].expand(7, 7), atol=1e-5, rtol=0)
    torch.testing.assert_close(columns, x.expand(7, 7), atol=1e-5, rtol=0)


def test_the_official_order_puts_them_elsewhere():
    scores, indices = _coordinates(18)
    labels = _labels(scores, indices, torch.tensor([[0.2, 0.4, 0.3, 0.5]]))
    rows, columns = _read_coordinates(TokenLabelTarget(3, 7, 0.0, official_crop_order=True)(labels))
    centre = (torch.arange(7) + 0.5) / 7
    torch.testing.assert_close(rows[:, 0], 0.4 + 0.5 * centre, atol=1e-5, rtol=0)
    torch.testing.assert_close(columns[0], 0.2 + 0.3 * centre, atol=1e-5, rtol=0)


def test_crops_smaller_than_a_cell_stay_where_they_are():
    """RoIAlign without alignment would widen them to a cell, to the lower right."""
    scores, indices = _coordinates(4)
    labels = _labels(scores, indices, torch.tensor([[0.5, 0.5, 0.1, 0.1]]))
    rows, _ = _read_coordinates(TokenLabelTarget(3, 2, 0.0)(labels))
    torch.testing.assert_close(rows[:, 0], torch.tensor([0.525, 0.575]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_columns_are_distributions_and_the_first_the_ground_truth(smoothing):
    labels = _random()
    labels.ground_truth = torch.tensor([3, 19, 0])
    target = TokenLabelTarget(20, 3, smoothing)(labels)
    assert target.shape == (3, 20, 11) and target.dtype == torch.float32
    torch.testing.assert_close(target.sum(1), torch.ones(3, 11))
    truth = torch.nn.functional.one_hot(labels.ground_truth, 20) * (1 - smoothing) + smoothing / 20
    torch.testing.assert_close(target[:, :, 0], truth)


def test_published_storage_types_give_the_same():
    labels = _random()
    half = _labels(labels.scores.half(), labels.indices, labels.crop)
    builder = TokenLabelTarget(20, 3)
    torch.testing.assert_close(builder(half), builder(labels), atol=1e-3, rtol=0)


def test_mixed_precision_does_not_touch_it():
    labels = _random()
    expected = TokenLabelTarget(20, 3)(labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(TokenLabelTarget(20, 3)(labels), expected)


@pytest.mark.parametrize("wrong", [{"num_classes": 0}, {"size": 0}, {"smoothing": 1.5}])
def test_wrong_arguments(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TokenLabelTarget(**{"num_classes": 3, **wrong})


def test_it_tells_its_options():
    text = repr(TokenLabelTarget(10, (2, 3), 0.2, True))
    assert all(part in text for part in ("10", "(2, 3)", "0.2", "official_crop_order=True"))
