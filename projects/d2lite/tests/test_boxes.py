"""Boxes, box modes and the measures between boxes, against loops in plain Python."""

import math

import numpy as np
import pytest
import torch
from detectron2.structures import (
    Boxes,
    BoxMode,
    matched_pairwise_iou,
    pairwise_intersection,
    pairwise_ioa,
    pairwise_iou,
    pairwise_point_box_distance,
)
from detectron2.structures.boxes import matched_boxlist_iou
from hypothesis import given, settings, strategies as st

XYXY, XYWH, XYWHA = BoxMode.XYXY_ABS, BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS
coordinate = st.integers(-50, 50)


@st.composite
def box_lists(draw, min_size=0, max_size=6):
    """Boxes with corners in halves of pixels, some of them without an area."""
    rows = draw(
        st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), max_size=max_size)
    )
    rows += [(0, 0, 2, 2)] * max(0, min_size - len(rows))
    return [[x / 2, y / 2, (x + abs(w)) / 2, (y + abs(h)) / 2] for x, y, w, h in rows]


def shared_area(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def area(a):
    return (a[2] - a[0]) * (a[3] - a[1])


@pytest.mark.parametrize("make", [list, tuple, np.array, torch.tensor])
def test_convert_keeps_the_type_and_the_input(make):
    box = make([5.0, 6.0, 10.0, 20.0])
    wide = BoxMode.convert(box, XYWH, XYXY)
    assert type(wide) is type(box) and list(wide) == [5, 6, 15, 26]
    back = BoxMode.convert(wide, XYXY, XYWH)
    assert list(back) == [5, 6, 10, 20] and list(box) == [5, 6, 10, 20]
    assert BoxMode.convert(box, XYWH, XYWH) is box


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_convert_of_batches_keeps_the_dtype(dtype):
    boxes = np.array([[5, 6, 10, 20], [0, 0, 1, 2]], dtype=dtype)
    for given_boxes in (boxes, torch.from_numpy(boxes)):
        wide = BoxMode.convert(given_boxes, XYWH, XYXY)
        assert wide.dtype == given_boxes.dtype
        assert wide.tolist() == [[5, 6, 15, 26], [0, 0, 1, 2]]
        assert given_boxes.tolist() == [[5, 6, 10, 20], [0, 0, 1, 2]]
        assert BoxMode.convert(given_boxes[:0], XYWH, XYXY).shape == (0, 4)


def test_convert_of_a_list_of_integers_gives_integers():
    result = BoxMode.convert([1, 2, 3, 4], XYWH, XYXY)
    assert result == [1, 2, 4, 6] and all(type(x) is int for x in result)


def test_convert_takes_plain_integers_as_modes():
    assert BoxMode.convert([1, 2, 3, 4], 1, 0) == [1, 2, 4, 6]


@settings(max_examples=40, deadline=None)
@given(box_lists())
def test_convert_there_and_back(rows):
    boxes = torch.tensor(rows).reshape(-1, 4)
    there = BoxMode.convert(boxes, XYXY, XYWH)
    assert torch.equal(BoxMode.convert(there, XYWH, XYXY), boxes)


def test_convert_with_angle():
    assert BoxMode.convert([0, 0, 10, 4], XYWH, XYWHA) == [5, 2, 10, 4, 0]
    upright = BoxMode.convert([50.0, 50.0, 30.0, 20.0, 90.0], XYWHA, XYXY)
    assert upright == pytest.approx([40, 35, 60, 65], abs=1e-5)
    side = 10 * math.sqrt(2)
    tilted = BoxMode.convert(np.array([[0.0, 0.0, 20.0, 0.0, -45.0]]), XYWHA, XYXY)
    assert tilted[0] == pytest.approx([-side / 2, -side / 2, side / 2, side / 2])
    assert BoxMode.convert(torch.zeros(0, 5), XYWHA, XYXY).shape == (0, 4)
    with pytest.raises(AssertionError, match="must be 5"):
        BoxMode.convert(torch.zeros(2, 4), XYWHA, XYXY)


def test_convert_refuses():
    with pytest.raises(AssertionError, match="k-tuple|k numbers"):
        BoxMode.convert([1, 2, 3], XYWH, XYXY)
    for relative in (BoxMode.XYXY_REL, BoxMode.XYWH_REL):
        with pytest.raises(AssertionError, match="Relative"):
            BoxMode.convert([1, 2, 3, 4], relative, XYXY)
    with pytest.raises(NotImplementedError, match="XYXY_ABS to XYWHA_ABS"):
        BoxMode.convert([1, 2, 3, 4], XYXY, XYWHA)


@pytest.mark.parametrize(
    "empty", [[], torch.empty(0), torch.empty(0, 4), torch.empty(0, 7), np.zeros((0, 4))]
)
def test_empty_boxes(empty):
    boxes = Boxes(empty)
    assert boxes.tensor.shape == (0, 4) and boxes.tensor.dtype == torch.float32
    assert len(boxes) == 0 and list(boxes) == []
    boxes.clip((5, 5))
    boxes.scale(2, 3)
    assert boxes.area().shape == boxes.nonempty().shape == (0,)
    assert boxes.inside_box((5, 5)).shape == (0,) and boxes.get_centers().shape == (0, 2)
    assert pairwise_iou(boxes, Boxes([[0, 0, 1, 1]])).shape == (0, 1)
    assert pairwise_ioa(Boxes([[0, 0, 1, 1]]), boxes).shape == (1, 0)
    assert matched_pairwise_iou(boxes, boxes).shape == (0,)
    assert pairwise_point_box_distance(torch.zeros(3, 2), boxes).shape == (3, 0, 4)
    assert Boxes.cat([boxes, boxes]).tensor.shape == (0, 4)


def test_construction():
    tensor = torch.rand(3, 4)
    assert Boxes(tensor).tensor is tensor
    assert Boxes(tensor.half()).tensor.dtype == torch.float32
    assert Boxes([[1, 2, 3, 4]]).tensor.tolist() == [[1, 2, 3, 4]]
    for wrong in (torch.rand(4), torch.rand(2, 5), torch.rand(1, 2, 4)):
        with pytest.raises(AssertionError):
            Boxes(wrong)


def test_clip():
    boxes = Boxes([[-5, -5, 30, 40], [1, 2, 3, 4], [50, 60, 70, 80]])
    boxes.clip((20, 10))
    assert boxes.tensor.tolist() == [[0, 0, 10, 20], [1, 2, 3, 4], [10, 20, 10, 20]]
    for bad in (math.inf, math.nan):
        with pytest.raises(AssertionError, match="infinite or NaN"):
            Boxes([[0, 0, bad, 1]]).clip((5, 5))


def test_nonempty():
    boxes = Boxes([[0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 5, 4], [3, 3, 2, 5]])
    assert boxes.nonempty().tolist() == [True, False, True, False]
    assert boxes.nonempty(threshold=4).tolist() == [False, False, False, False]
    assert boxes.nonempty(threshold=3).tolist() == [False, False, True, False]


def test_inside_box():
    boxes = Boxes([[0, 0, 9, 19], [0, 0, 10, 19], [-1, 0, 5, 5], [0, 0, 5, 20]])
    assert boxes.inside_box((20, 10)).tolist() == [True, False, False, False]
    assert boxes.inside_box((20, 10), 1).tolist() == [True, True, True, True]


def test_indexing():
    tensor = torch.arange(12.0).reshape(3, 4)
    boxes = Boxes(tensor)
    assert torch.equal(boxes[1].tensor, tensor[1:2])
    assert torch.equal(boxes[-1].tensor, tensor[2:])
    assert torch.equal(boxes[1:].tensor, tensor[1:])
    assert torch.equal(boxes[torch.tensor([2, 0, 2])].tensor, tensor[[2, 0, 2]])
    assert torch.equal(boxes[torch.tensor([True, False, True])].tensor, tensor[::2])
    assert boxes[torch.zeros(3, dtype=torch.bool)].tensor.shape == (0, 4)
    with pytest.raises(IndexError):
        boxes[3]
    with pytest.raises(AssertionError, match="failed to return a matrix"):
        boxes[torch.tensor(0)]
    assert [row.tolist() for row in boxes] == tensor.tolist()
    assert repr(boxes) == f"Boxes({tensor})"


def test_scale_centers_clone_device():
    boxes = Boxes([[1, 2, 3, 6]])
    copy = boxes.clone()
    boxes.scale(2, 0.5)
    assert boxes.tensor.tolist() == [[2, 1, 6, 3]]
    assert copy.tensor.tolist() == [[1, 2, 3, 6]] and copy.get_centers().tolist() == [[2, 4]]
    assert copy.to("cpu").device == copy.device == torch.device("cpu")


def test_cat():
    first, second = Boxes([[0, 0, 1, 1]]), Boxes([[1, 1, 2, 2], [3, 3, 4, 4]])
    assert torch.equal(Boxes.cat([first, second]).tensor, torch.cat([first.tensor, second.tensor]))
    assert len(Boxes.cat([])) == 0
    Boxes.cat([first]).tensor.fill_(7)
    assert first.tensor.sum() == 2
    for wrong in (first, [first.tensor]):
        with pytest.raises(AssertionError):
            Boxes.cat(wrong)


@settings(max_examples=40, deadline=None)
@given(box_lists(), box_lists())
def test_pairwise_measures(rows1, rows2):
    boxes1, boxes2 = Boxes(rows1), Boxes(rows2)
    shape = (len(rows1), len(rows2))
    shared = np.array([shared_area(a, b) for a in rows1 for b in rows2]).reshape(shape)
    union = np.array([area(a) + area(b) for a in rows1 for b in rows2]).reshape(shape) - shared
    second = np.array([area(b) for a in rows1 for b in rows2]).reshape(shape)
    iou = np.divide(shared, union, out=np.zeros(shape), where=shared > 0)
    ioa = np.divide(shared, second, out=np.zeros(shape), where=shared > 0)
    np.testing.assert_allclose(pairwise_intersection(boxes1, boxes2).numpy(), shared)
    np.testing.assert_allclose(pairwise_iou(boxes1, boxes2).numpy(), iou, rtol=1e-6)
    np.testing.assert_allclose(pairwise_ioa(boxes1, boxes2).numpy(), ioa, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(box_lists(min_size=1))
def test_matched_iou_is_the_diagonal(rows):
    boxes = Boxes([row for row in rows if area(row) > 0] or [[0, 0, 1, 1]])
    other = Boxes(boxes.tensor.flip(0))
    expected = pairwise_iou(boxes, other).diagonal()
    torch.testing.assert_close(matched_pairwise_iou(boxes, other), expected)


def test_matched_iou_of_different_lengths():
    with pytest.raises(AssertionError, match="got 1, 2"):
        matched_boxlist_iou(Boxes([[0, 0, 1, 1]]), Boxes([[0, 0, 1, 1]] * 2))
    assert matched_pairwise_iou(Boxes([[1, 1, 1, 1]]), Boxes([[1, 1, 1, 1]])).isnan().all()


def test_point_box_distance():
    points = torch.tensor([[1.0, 2.0], [10.0, 0.0]])
    boxes = Boxes([[0, 0, 4, 8], [2, 2, 3, 3]])
    expected = [[[1, 2, 3, 6], [-1, 0, 2, 1]], [[10, 0, -6, 8], [8, -2, -7, 3]]]
    assert pairwise_point_box_distance(points, boxes).tolist() == expected


def test_scripting():
    def measure(x: torch.Tensor, y: torch.Tensor):
        boxes = Boxes(x)
        boxes.clip((8, 10))
        both = boxes.cat([boxes, Boxes(y).to(torch.device("cpu"))])
        first = both[torch.tensor([0, 2])]
        return both.area(), both.nonempty(0.5), both.get_centers(), first.tensor, len(both)

    x, y = torch.rand(3, 4) * 20, torch.rand(0, 4)
    for a, b in zip(torch.jit.script(measure)(x, y), measure(x, y), strict=True):
        assert a == b if isinstance(a, int) else torch.equal(a, b)


def test_export():
    class Keep(torch.nn.Module):
        def forward(self, x):
            boxes = Boxes(x)
            boxes.clip((10, 10))
            return boxes[boxes.nonempty()].tensor

    x = torch.tensor([[0.0, 0, 5, 5], [3, 3, 3, 3], [1, 1, 20, 2]])
    exported = torch.export.export(Keep(), (x,), strict=False).module()
    assert exported(x).tolist() == [[0, 0, 5, 5], [1, 1, 10, 2]]
    assert exported(x[[1, 1, 1]]).shape == (0, 4)
