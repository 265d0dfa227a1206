"""Best classes and confusion against loops over pixels."""

import numpy as np
import pytest
import torch

from lvt_d2.evaluation.confusion import Confusion, best_classes


def loop_best(scores):
    classes, height, width = scores.shape
    result = np.zeros((height, width), dtype=int)
    for y in range(height):
        for x in range(width):
            for k in range(classes):
                if scores[k, y, x] > scores[result[y, x], y, x]:
                    result[y, x] = k
    return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 3, 4), (5, 7, 9), (12, 1, 40), (3, 40, 1)])
def test_best_classes(dtype, shape):
    generator = torch.Generator().manual_seed(sum(shape))
    scores = torch.randn(shape, generator=generator).round(decimals=1).to(dtype)  # with ties
    found = best_classes(scores)
    assert found.dtype == torch.uint8
    np.testing.assert_array_equal(found, loop_best(scores.double().numpy()))
    np.testing.assert_array_equal(found, scores.argmax(dim=0))


def test_strips_strided_maps_and_many_classes(monkeypatch):
    monkeypatch.setattr("lvt_d2.evaluation.confusion._CPU_PIXELS", 50)
    scores = torch.randn(6, 30, 64, generator=torch.Generator().manual_seed(0))
    scores = scores[:, 1:, :61:2]
    np.testing.assert_array_equal(best_classes(scores), scores.argmax(dim=0))
    many = torch.randn(300, 9, 8, generator=torch.Generator().manual_seed(1))
    found = best_classes(many)
    assert found.dtype == torch.int32 and found.max() > 255
    np.testing.assert_array_equal(found, many.argmax(dim=0))


def test_scores_stay_and_empty_maps():
    scores = torch.randn(4, 5, 6, requires_grad=True)
    before = scores.clone()
    best_classes(scores)
    assert torch.equal(scores, before)
    assert best_classes(torch.zeros(4, 0, 6)).shape == (0, 6)
    assert best_classes(torch.zeros(4, 6, 0)).shape == (6, 0)
    confusion = Confusion(4)
    confusion.update(torch.zeros(0, 6, dtype=torch.uint8), np.zeros((0, 6), np.uint8))
    assert not confusion.matrix().any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_confusion(dtype):
    rng = np.random.default_rng(0)
    confusion, expected = Confusion(5), np.zeros((5, 5), dtype=np.int64)
    for _ in range(3):
        predicted, true = rng.integers(0, 5, (6, 7)), rng.integers(0, 6, (6, 7)).astype(np.uint8)
        confusion.update(torch.from_numpy(predicted).to(dtype), true)
        for p, t in zip(predicted.ravel(), true.ravel(), strict=True):
            if t < 5:
                expected[p, t] += 1
    np.testing.assert_array_equal(confusion.matrix(), expected)


@pytest.mark.parametrize("wrong", [-1, 5, 255])
def test_labels_beyond_the_classes(wrong):
    predicted = torch.full((2, 3), wrong)
    with pytest.raises(ValueError, match=rf"{wrong}\.\.{wrong}; expected 0\.\.4"):
        Confusion(5).update(predicted, np.zeros((2, 3), np.uint8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    scores = torch.randn(7, 40, 50, generator=torch.Generator().manual_seed(0))
    true = np.random.default_rng(0).integers(0, 8, (40, 50)).astype(np.uint8)
    on_gpu = best_classes(scores.cuda())
    assert on_gpu.is_cuda and torch.equal(on_gpu.cpu(), best_classes(scores))
    confusions = [Confusion(7), Confusion(7)]
    confusions[0].update(on_gpu, true)
    confusions[1].update(on_gpu.cpu(), true)
    np.testing.assert_array_equal(confusions[0].matrix(), confusions[1].matrix())
