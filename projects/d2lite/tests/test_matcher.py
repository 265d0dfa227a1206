"""Matching and sampling."""

import pytest
import torch
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.sampling import subsample_labels


def slow_match(matrix, thresholds, labels, low_quality):
    limits = [-float("inf"), *thresholds, float("inf")]
    matches, out = [], []
    for n in range(matrix.shape[1]):
        column = matrix[:, n].tolist()
        best = max(range(len(column)), key=lambda m: column[m])
        matches.append(best)
        value = column[best]
        label = next(
            lab
            for lab, lo, hi in zip(labels, limits[:-1], limits[1:], strict=True)
            if lo <= value < hi
        )
        if low_quality and any(matrix[m, n] == matrix[m].max() for m in range(matrix.shape[0])):
            label = 1
        out.append(label)
    return matches, out


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize(
    "thresholds, labels", [([0.25, 0.75], [0, -1, 1]), ([0.5], [0, 1]), ([0.25, 0.25], [0, -1, 1])]
)
def test_equals_a_slow_loop(thresholds, labels, low_quality):
    generator = torch.Generator().manual_seed(1)
    # Rounded, so that there are ties and values on the limits
    matrix = (torch.rand(4, 60, generator=generator) * 8).round() / 8
    matches, out = Matcher(thresholds, labels, low_quality)(matrix)
    expected_matches, expected = slow_match(matrix, thresholds, labels, low_quality)
    assert out.tolist() == expected
    values = matrix[matches, torch.arange(60)]
    assert torch.equal(values, matrix[expected_matches, torch.arange(60)])
    assert matches.dtype == torch.int64
    assert out.dtype == torch.int8


def test_known_example():
    matrix = torch.tensor([[0.15, 0.45, 0.2, 0.6], [0.3, 0.65, 0.05, 0.1], [0.05, 0.4, 0.25, 0.4]])
    matches, labels = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)(matrix)
    assert matches.tolist() == [1, 1, 2, 0]
    assert labels.tolist() == [-1, 1, 0, 1]


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_empty(shape):
    matches, labels = Matcher([0.5], [0, 1])(torch.zeros(shape))
    assert matches.tolist() == labels.tolist() == [0] * shape[1]
    _, labels = Matcher([0.5], [-1, 1], True)(torch.zeros(shape))
    assert labels.tolist() == [-1] * shape[1]


@pytest.mark.parametrize(
    "thresholds, labels",
    [([0.5], [0, 1, 1]), ([0.7, 0.3], [0, -1, 1]), ([0.5], [0, 2]), ([0.0], [0, 1])],
)
def test_bad_arguments(thresholds, labels):
    with pytest.raises(AssertionError):
        Matcher(thresholds, labels)


def test_bad_matrix():
    with pytest.raises(AssertionError):
        Matcher([0.5], [0, 1])(torch.tensor([[-0.1, 0.5]]))


def test_leaves_its_arguments_alone():
    thresholds = [0.3, 0.7]
    Matcher(thresholds, [0, -1, 1])
    assert thresholds == [0.3, 0.7]


def scripted_matching(matrix: torch.Tensor, thresholds: list[float], labels: list[int]):
    return Matcher(thresholds, labels, allow_low_quality_matches=True)(matrix)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_scripted_equals_eager():
    matrix = torch.rand(3, 20, generator=torch.Generator().manual_seed(0))
    arguments = (matrix, [0.3, 0.7], [0, -1, 1])
    scripted = torch.jit.script(scripted_matching)(*arguments)
    for ours, theirs in zip(scripted, scripted_matching(*arguments), strict=True):
        assert torch.equal(ours, theirs)


def test_subsample_takes_the_right_numbers():
    labels = torch.tensor([0] * 10 + [7] * 3 + [2] * 3 + [-1] * 5)
    positive, negative = subsample_labels(labels, 8, 0.5, bg_label=7)
    assert len(positive) == 4 and len(negative) == 3
    assert set(labels[positive].tolist()) <= {0, 2}
    assert (labels[negative] == 7).all()
    assert len(set(positive.tolist())) == 4


def test_subsample_fills_up_with_negatives():
    labels = torch.tensor([1, 0, 0, 0, 0, 0, -1])
    positive, negative = subsample_labels(labels, 4, 0.5, bg_label=0)
    assert positive.tolist() == [0] and len(negative) == 3


def test_subsample_rounds_down_and_bears_nothing():
    labels = torch.ones(10, dtype=torch.int64)
    assert len(subsample_labels(labels, 5, 0.5, bg_label=0)[0]) == 2
    positive, negative = subsample_labels(labels[:0], 5, 0.5, bg_label=0)
    assert positive.numel() == negative.numel() == 0


def test_subsample_is_random_and_seeded():
    labels = torch.ones(1000, dtype=torch.int64)
    torch.manual_seed(5)
    first = subsample_labels(labels, 10, 1.0, bg_label=0)[0]
    other = subsample_labels(labels, 10, 1.0, bg_label=0)[0]
    torch.manual_seed(5)
    assert torch.equal(first, subsample_labels(labels, 10, 1.0, bg_label=0)[0])
    assert not torch.equal(first, other)
