"""The matcher with a floor, against the published assignment written as a loop."""

import pytest
import torch

from lvt_d2.modeling import FlooredMatcher


def slow_assignment(iou: torch.Tensor, negative: float, positive: float, floor: float):
    """Match and label of each of the N columns of an (M, N) table, in plain Python."""
    matches, labels = [], []
    for n in range(iou.shape[1]):
        column = iou[:, n].tolist()
        best = max(column)
        match = column.index(best)
        label = 0 if best < negative else (1 if best >= positive else -1)
        for m in range(iou.shape[0]):
            row_best = iou[m].max().item()
            if row_best >= floor and column[m] == row_best:
                match, label = m, 1
        matches.append(match)
        labels.append(label)
    return matches, labels


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("negative", "positive"), [(0.3, 0.7), (0.5, 0.5)])
def test_equals_loop(seed, negative, positive):
    iou = torch.rand(6, 40, generator=torch.Generator().manual_seed(seed)) ** 3
    if negative == positive:
        matcher = FlooredMatcher([positive], [0, 1], low_quality_floor=positive)
        floor = positive
    else:
        matcher = FlooredMatcher([negative, positive], [0, -1, 1], low_quality_floor=negative)
        floor = negative
    matches, labels = matcher(iou)
    expected_matches, expected_labels = slow_assignment(iou, negative, positive, floor)
    assert matches.tolist() == expected_matches
    assert labels.tolist() == expected_labels


def test_floor_decides():
    iou = torch.tensor([[0.1, 0.25]])
    thresholds, labels = [0.3, 0.7], [0, -1, 1]
    assert FlooredMatcher(thresholds, labels, 0.3)(iou)[1].tolist() == [0, 0]
    assert FlooredMatcher(thresholds, labels, 0.2)(iou)[1].tolist() == [0, 1]


def test_no_ground_truth():
    matches, labels = FlooredMatcher([0.5], [0, 1], 0.5)(torch.zeros(0, 4))
    assert matches.tolist() == [0] * 4 and labels.tolist() == [0] * 4
