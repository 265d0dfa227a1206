"""Non-maximum suppression, against a loop."""

import pytest
import torch
from detectron2.layers import batched_nms, nms
from detectron2.structures import Boxes, pairwise_iou
from hypothesis import given, settings, strategies as st


def suppress_slowly(boxes, scores, groups, threshold):
    overlap = pairwise_iou(Boxes(boxes), Boxes(boxes))
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i].item()):
        if all(groups[i] != groups[k] or overlap[i, k] <= threshold for k in kept):
            kept.append(i)
    return kept


def sample(n, groups, seed):
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(n, 4, generator=generator) * 50
    boxes[:, 2:] += boxes[:, :2] + 5
    scores = torch.randperm(n, generator=generator) / max(n, 1)
    return boxes, scores, torch.randint(0, groups, (n,), generator=generator)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 40), st.integers(1, 4), st.integers(0, 1000), st.sampled_from([0.0, 0.3, 0.7])
)
def test_against_the_slow_one(n, groups, seed, threshold):
    boxes, scores, idxs = sample(n, groups, seed)
    kept = batched_nms(boxes, scores, idxs, threshold)
    assert kept.dtype == torch.int64
    assert kept.tolist() == suppress_slowly(boxes, scores, idxs, threshold)
    same = torch.zeros_like(idxs)
    assert nms(boxes, scores, threshold).tolist() == suppress_slowly(boxes, scores, same, threshold)


def test_many_boxes():
    boxes, scores, idxs = sample(1100, 3, seed=1)  # from 1000 on torchvision goes another way
    assert batched_nms(boxes, scores, idxs, 0.5).tolist() == suppress_slowly(
        boxes, scores, idxs, 0.5
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    boxes = torch.tensor([[2048, 0, 2064, 10], [2048, 0, 2064, 9], [2048, 0, 2064, 10]])
    scores = torch.tensor([0.25, 0.5, 0.75]).to(dtype)
    kept = batched_nms(boxes.to(dtype), scores, torch.tensor([7, 7, 90]), 0.5)
    assert kept.tolist() == [2, 1]


def test_shape_is_checked():
    with pytest.raises(AssertionError):
        batched_nms(torch.zeros(2, 5), torch.zeros(2), torch.zeros(2), 0.5)


def test_scripting():
    boxes, scores, idxs = sample(20, 2, seed=3)
    script = torch.jit.script(batched_nms)
    assert torch.equal(script(boxes, scores, idxs, 0.5), batched_nms(boxes, scores, idxs, 0.5))
