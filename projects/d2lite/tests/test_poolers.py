"""Pooling from a pyramid, against a slow RoIAlign."""

import math

import pytest
import torch
from detectron2.modeling.poolers import (
    ROIPooler,
    assign_boxes_to_levels,
    convert_boxes_to_pooler_format,
)
from detectron2.structures import Boxes
from torchvision.ops import RoIPool

SCALES = (1 / 4, 1 / 8, 1 / 16)


def pyramid(batch=2, channels=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.rand(batch, channels, 64 // 2**i, 48 // 2**i, generator=generator).to(dtype)
        for i in range(3)
    ]


def boxes_of_all_sizes():
    return [
        Boxes(torch.tensor([[3.0, 4, 40, 60], [10, 10, 190, 250], [0, 0, 500, 800]])),
        Boxes(torch.tensor([[20.0, 30, 25, 33], [5, 6, 80, 90]])),
    ]


def bilinear(plane, y, x):
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    fy, fx = y - y0, x - x0
    top = plane[y0, x0] * (1 - fx) + plane[y0, x1] * fx
    bottom = plane[y1, x0] * (1 - fx) + plane[y1, x1] * fx
    return float(top * (1 - fy) + bottom * fy)


def slow_roi_align(feature, box, scale, size, ratio, offset):
    """RoIAlign of one box on one map (C, H, W), in loops."""
    x0, y0, x1, y1 = (v * scale - offset for v in box.tolist())
    bin_h, bin_w = (y1 - y0) / size, (x1 - x0) / size
    if offset == 0:
        bin_h, bin_w = max(y1 - y0, 1) / size, max(x1 - x0, 1) / size
    rows = ratio or max(math.ceil(bin_h), 1)
    columns = ratio or max(math.ceil(bin_w), 1)
    out = torch.zeros(feature.shape[0], size, size)
    for c, plane in enumerate(feature):
        for i in range(size):
            for j in range(size):
                values = [
                    bilinear(
                        plane,
                        y0 + (i + (a + 0.5) / rows) * bin_h,
                        x0 + (j + (b + 0.5) / columns) * bin_w,
                    )
                    for a in range(rows)
                    for b in range(columns)
                ]
                out[c, i, j] = sum(values) / len(values)
    return out


def slow_level(box, canonical_size=224, canonical_level=4):
    area = float((box[2] - box[0]) * (box[3] - box[1]))
    level = math.floor(canonical_level + math.log2(math.sqrt(area) / canonical_size + 1e-8))
    return min(max(level, 2), 4) - 2


@pytest.mark.parametrize("kind, offset", [("ROIAlign", 0.0), ("ROIAlignV2", 0.5)])
@pytest.mark.parametrize("ratio", [0, 2])
def test_equals_a_slow_loop(kind, offset, ratio):
    features, boxes = pyramid(), boxes_of_all_sizes()
    pooler = ROIPooler(3, SCALES, ratio, kind, canonical_box_size=112)
    output = pooler(features, boxes)
    assert output.shape == (5, 2, 3, 3)
    row = 0
    levels = set()
    for image, boxes_i in enumerate(boxes):
        for box in boxes_i.tensor:
            level = slow_level(box, canonical_size=112)
            levels.add(level)
            expected = slow_roi_align(features[level][image], box, SCALES[level], 3, ratio, offset)
            torch.testing.assert_close(output[row], expected, atol=1e-4, rtol=1e-4)
            row += 1
    assert levels == {0, 1, 2}


def test_roi_pool_takes_maxima():
    features, boxes = pyramid()[:1], boxes_of_all_sizes()
    output = ROIPooler((2, 3), SCALES[:1], 0, "ROIPool")(features, boxes)
    expected = RoIPool((2, 3), SCALES[0])(features[0], convert_boxes_to_pooler_format(boxes))
    assert torch.equal(output, expected)


def test_one_level_ignores_sizes():
    features, boxes = pyramid()[:1], boxes_of_all_sizes()
    one = ROIPooler(7, SCALES[:1], 2, "ROIAlignV2")
    assert one(features, boxes).shape == (5, 2, 7, 7)
    assert (one.min_level, one.max_level) == (2, 2)


def test_levels():
    sides = [0.0, 1, 55, 56, 111, 112, 223, 224, 447, 448, 5000]
    boxes = Boxes(torch.tensor([[0.0, 0, s, s] for s in sides]))
    levels = assign_boxes_to_levels([boxes], 2, 5, 224, 4)
    assert levels.tolist() == [0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert levels.dtype == torch.int64


def test_pooler_format():
    rows = convert_boxes_to_pooler_format([*boxes_of_all_sizes(), Boxes(torch.zeros(0, 4))])
    assert rows[:, 0].tolist() == [0, 0, 0, 1, 1]
    assert torch.equal(rows[3:, 1:], boxes_of_all_sizes()[1].tensor)


@pytest.mark.parametrize("levels", [1, 3])
def test_no_boxes(levels):
    pooler = ROIPooler(7, SCALES[:levels], 0, "ROIAlignV2")
    features = [f.requires_grad_() for f in pyramid()[:levels]]
    output = pooler(features, [Boxes(torch.zeros(0, 4))] * 2)
    assert output.shape == (0, 2, 7, 7)
    assert pooler([f[:0] for f in features], []).shape == (0, 2, 7, 7)


def test_gradient_reaches_every_level():
    features = [f.requires_grad_() for f in pyramid()]
    ROIPooler(3, SCALES, 0, "ROIAlignV2", canonical_box_size=112)(
        features, boxes_of_all_sizes()
    ).sum().backward()
    assert all(f.grad.abs().sum() > 0 for f in features)


@pytest.mark.parametrize(
    "scales, message", [((1 / 3,), "power of 2"), ((1 / 4, 1 / 16), "pyramid")]
)
def test_bad_scales(scales, message):
    with pytest.raises(AssertionError, match=message):
        ROIPooler(7, scales, 0, "ROIAlign")


def test_bad_arguments():
    with pytest.raises(ValueError, match="Unknown pooler type: Mean"):
        ROIPooler(7, SCALES, 0, "Mean")
    with pytest.raises(AssertionError, match="output_size"):
        ROIPooler((7, 7, 7), SCALES, 0, "ROIAlign")
    pooler = ROIPooler(7, SCALES, 0, "ROIAlign")
    with pytest.raises(AssertionError, match="lists"):
        pooler(tuple(pyramid()), boxes_of_all_sizes())
    with pytest.raises(AssertionError, match="3 levels"):
        pooler(pyramid()[:2], boxes_of_all_sizes())
    with pytest.raises(AssertionError, match="2 images"):
        pooler(pyramid(), boxes_of_all_sizes()[:1])


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_scripted_equals_eager():
    pooler = ROIPooler(5, SCALES, 2, "ROIAlignV2")
    features, boxes = pyramid(), boxes_of_all_sizes()
    assert torch.equal(torch.jit.script(pooler)(features, boxes), pooler(features, boxes))


def test_traced_takes_other_numbers_of_boxes():
    pooler = ROIPooler(5, SCALES, 2, "ROIAlignV2", canonical_box_size=112)

    def pool(a, b, c, boxes0, boxes1):
        return pooler([a, b, c], [Boxes(boxes0), Boxes(boxes1)])

    features = pyramid()
    first, second = (b.tensor for b in boxes_of_all_sizes())
    traced = torch.jit.trace(pool, (*features, first, second), check_trace=False)
    for boxes in ((second, first), (first[:0], second), (first[:1], second[:0])):
        assert torch.equal(traced(*features, *boxes), pool(*features, *boxes))
