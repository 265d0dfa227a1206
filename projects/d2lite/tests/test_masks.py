"""BitMasks, PolygonMasks, ROIMasks: drawing, cropping, boxes, against slow references."""

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, PolygonMasks, ROIMasks, polygons_to_bitmask
from detectron2.structures.masks import polygon_area, rasterize_polygons_within_box
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays


def rectangle(x0, y0, x1, y1):
    return np.array([x0, y0, x1, y0, x1, y1, x0, y1], dtype=float)


def inside(polygon, x, y):
    """Even-odd rule, one point at a time."""
    corners = np.asarray(polygon).reshape(-1, 2)
    result = False
    for (xa, ya), (xb, yb) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if (ya > y) != (yb > y) and x < (xb - xa) * (y - ya) / (yb - ya) + xa:
            result = not result
    return result


def distance_to_outline(polygon, x, y):
    corners = np.asarray(polygon).reshape(-1, 2)
    point, best = np.array([x, y]), np.inf
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        t = np.clip(np.dot(point - a, b - a) / max(np.dot(b - a, b - a), 1e-9), 0, 1)
        best = min(best, np.linalg.norm(a + t * (b - a) - point))
    return best


triangles = st.lists(st.floats(0, 16), min_size=6, max_size=6)


@settings(max_examples=40, deadline=None)
@given(triangles)
def test_polygon_is_drawn_where_it_is(coordinates):
    mask = polygons_to_bitmask([np.array(coordinates)], 16, 16)
    assert mask.shape == (16, 16) and mask.dtype == bool
    for y in range(16):
        for x in range(16):
            if distance_to_outline(coordinates, x + 0.5, y + 0.5) > 1:
                assert mask[y, x] == inside(coordinates, x + 0.5, y + 0.5)


def test_polygons_are_joined():
    mask = polygons_to_bitmask([rectangle(0, 0, 2, 3), rectangle(1, 1, 5, 2)], 4, 6)
    expected = np.zeros((4, 6), dtype=bool)
    expected[:3, :2] = expected[1:2, 1:5] = True
    assert np.array_equal(mask, expected)
    assert not polygons_to_bitmask([], 4, 6).any()
    assert polygons_to_bitmask([], 4, 6).shape == (4, 6)


def test_polygon_area():
    square = rectangle(1, 2, 4, 7)
    assert polygon_area(square[0::2], square[1::2]) == 15
    assert polygon_area(square[0::2][::-1], square[1::2][::-1]) == 15
    triangle = np.array([0, 0, 4, 0, 0, 3])
    assert polygon_area(triangle[0::2], triangle[1::2]) == 6


bitmaps = arrays(bool, array_shapes(min_dims=3, max_dims=3, min_side=0, max_side=7))


@settings(max_examples=40, deadline=None)
@given(bitmaps)
def test_bounding_boxes_of_bitmaps(array):
    masks = BitMasks(array)
    boxes = masks.get_bounding_boxes()
    assert isinstance(boxes, Boxes) and boxes.tensor.shape == (len(array), 4)
    for mask, box, filled in zip(array, boxes, masks.nonempty().tolist(), strict=True):
        y, x = np.nonzero(mask)
        expected = [x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [0, 0, 0, 0]
        assert box.tolist() == expected and filled == bool(len(x))


def test_bitmasks_construction():
    array = np.array([[[0, 2, 0]]])
    for masks in (BitMasks(array), BitMasks(torch.from_numpy(array))):
        assert masks.tensor.dtype == torch.bool and masks.tensor.tolist() == [[[0, 1, 0]]]
        assert tuple(masks.image_size) == (1, 3) and masks.device == torch.device("cpu")
    for wrong in (np.zeros((2, 2)), torch.zeros(1, 1, 2, 2)):
        with pytest.raises(AssertionError):
            BitMasks(wrong)
    assert repr(BitMasks(array)) == "BitMasks(num_instances=1)"


def test_bitmasks_indexing():
    tensor = torch.rand(4, 3, 5) > 0.5
    masks = BitMasks(tensor)
    assert torch.equal(masks[1].tensor, tensor[1:2]) and torch.equal(masks[-1].tensor, tensor[3:])
    for item in (slice(1, 3), torch.tensor([3, 0]), torch.tensor([True, False, True, False])):
        assert torch.equal(masks[item].tensor, tensor[item])
    with pytest.raises(AssertionError, match="returns a tensor with shape"):
        masks[torch.tensor(1)]
    assert len(masks) == 4 and all(torch.equal(a, b) for a, b in zip(masks, tensor, strict=True))
    assert torch.equal(masks.to("cpu").tensor, tensor)


def test_cat_of_masks():
    bitmaps = BitMasks(torch.ones(2, 3, 4)), BitMasks(torch.zeros(1, 3, 4))
    joined = BitMasks.cat(list(bitmaps))
    assert isinstance(joined, BitMasks) and joined.nonempty().tolist() == [True, True, False]
    polygons = PolygonMasks([[rectangle(0, 0, 1, 1)]]), PolygonMasks([[]])
    joined = PolygonMasks.cat(polygons)
    assert isinstance(joined, PolygonMasks) and joined.nonempty().tolist() == [True, False]
    for kind, other in ((BitMasks, polygons), (PolygonMasks, bitmaps)):
        for wrong in ([], other, other[0]):
            with pytest.raises(AssertionError):
                kind.cat(wrong)


@pytest.mark.parametrize("as_masks", [True, False])
def test_bitmasks_from_polygons(as_masks):
    polygons = [[rectangle(1, 1, 3, 4)], [], [rectangle(0, 0, 1, 1), rectangle(4, 4, 6, 5)]]
    masks = BitMasks.from_polygon_masks(PolygonMasks(polygons) if as_masks else polygons, 5, 6)
    expected = torch.stack([torch.from_numpy(polygons_to_bitmask(p, 5, 6)) for p in polygons])
    assert torch.equal(masks.tensor, expected) and masks.tensor.sum((1, 2)).tolist() == [6, 0, 3]
    assert BitMasks.from_polygon_masks([], 5, 6).tensor.shape == (0, 5, 6)


def test_crop_of_bitmaps_on_whole_pixels():
    tensor = torch.rand(3, 20, 20) > 0.5
    masks = BitMasks(tensor)
    boxes = torch.tensor([[2.0, 3, 7, 8], [0, 0, 5, 5], [10, 5, 15, 10]])
    same = masks.crop_and_resize(boxes, 5)
    for got, mask, (x0, y0, x1, y1) in zip(same, tensor, boxes.int().tolist(), strict=True):
        assert torch.equal(got, mask[y0:y1, x0:x1])
    half = masks.crop_and_resize(torch.tensor([[4.0, 2, 12, 10]] * 3), 4)
    cells = tensor[:, 2:10, 4:12].reshape(3, 4, 2, 4, 2).float().mean((2, 4))
    assert torch.equal(half, cells >= 0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_crop_takes_boxes_of_any_dtype(dtype):
    box = torch.tensor([[1, 2, 9, 10]], dtype=dtype)
    polygons = PolygonMasks([[rectangle(3, 4, 7, 8)]])
    expected = torch.zeros(1, 8, 8, dtype=torch.bool)
    expected[:, 2:6, 2:6] = True
    assert torch.equal(polygons.crop_and_resize(box, 8), expected)
    bitmaps = BitMasks.from_polygon_masks(polygons, 12, 12)
    assert torch.equal(bitmaps.crop_and_resize(box, 8), expected)


def test_crop_of_nothing():
    for masks in (BitMasks(torch.zeros(0, 5, 5)), PolygonMasks([])):
        result = masks.crop_and_resize(torch.zeros(0, 4), 7)
        assert result.shape == (0, 7, 7) and result.dtype == torch.bool
        with pytest.raises(AssertionError, match="1"):
            masks.crop_and_resize(torch.zeros(1, 4), 7)
        assert masks.get_bounding_boxes().tensor.shape == (0, 4)
        assert masks.nonempty().shape == (0,) and masks.nonempty().dtype == torch.bool
    assert PolygonMasks([]).area().shape == (0,)


def test_rasterize_within_a_box():
    polygons = [rectangle(10, 20, 30, 60)]
    whole = rasterize_polygons_within_box(polygons, np.array([10, 20, 30, 60.0]), 14)
    assert whole.shape == (14, 14) and whole.dtype == torch.bool and whole.all()
    wider = rasterize_polygons_within_box(polygons, np.array([0, 20, 40, 100.0]), 8)
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:4, 2:6] = True
    assert torch.equal(wider, expected)
    assert polygons[0].tolist() == rectangle(10, 20, 30, 60).tolist()
    assert not rasterize_polygons_within_box([], np.array([0, 0, 1, 1.0]), 8).any()
    point = rasterize_polygons_within_box(polygons, np.array([5, 5, 5, 5.0]), 8)
    assert point.shape == (8, 8)


def test_polygons_agree_with_bitmaps():
    """Cropping the polygon and cropping its bitmap differ at the outline only."""
    polygon = [[np.array([5.0, 5, 50, 12, 55, 48, 20, 58, 8, 30])]]
    boxes = torch.tensor([[4.0, 4, 56, 59]])
    drawn = PolygonMasks(polygon).crop_and_resize(boxes, 28)
    cropped = BitMasks.from_polygon_masks(polygon, 64, 64).crop_and_resize(boxes, 28)
    assert (drawn != cropped).float().mean() < 0.05 and drawn.float().mean() > 0.4


def test_polygon_masks():
    polygons = [[rectangle(1, 2, 4, 7)], [rectangle(0, 0, 2, 2), rectangle(5, 6, 9, 8)]]
    masks = PolygonMasks(polygons)
    assert masks.area().tolist() == [15, 12] and masks.area().dtype == torch.float64
    assert masks.get_bounding_boxes().tensor.tolist() == [[1, 2, 4, 7], [0, 0, 9, 8]]
    assert masks.device == torch.device("cpu") and masks.to("cuda:5") is masks
    assert len(masks) == 2 and repr(masks) == "PolygonMasks(num_instances=2)"
    assert [len(instance) for instance in masks] == [1, 2]


def test_boxes_of_odd_polygons():
    masks = PolygonMasks([[], [rectangle(-5, -4, -2, -1)]])
    inf = float("inf")
    assert masks.get_bounding_boxes().tensor.tolist() == [[inf, inf, 0, 0], [-5, -4, 0, 0]]
    assert masks.nonempty().tolist() == [False, True]


@pytest.mark.parametrize("make", [list, np.array, torch.tensor])
def test_polygons_become_arrays(make):
    source = make([0, 0, 1, 0, 1, 1])
    polygon = PolygonMasks([[source]]).polygons[0][0]
    assert isinstance(polygon, np.ndarray) and polygon.dtype == np.float64
    polygon[0] = 9
    assert source[0] == 0


def test_polygons_refused():
    with pytest.raises(ValueError, match="list of list of polygons per image"):
        PolygonMasks(np.zeros((1, 6)))
    with pytest.raises(ValueError, match="list of polygons per instance"):
        PolygonMasks([np.zeros(6)])
    for length in (4, 7):
        with pytest.raises(ValueError, match=f"from {length} coordinates"):
            PolygonMasks([[np.zeros(length)]])


@pytest.mark.parametrize(
    "item, kept",
    [
        (1, [1]),
        (-1, [2]),
        (slice(0, 2), [0, 1]),
        ([2, 0], [2, 0]),
        (torch.tensor([2, 0]), [2, 0]),
        (torch.tensor([1], dtype=torch.int32), [1]),
        (torch.tensor([True, False, True]), [0, 2]),
        (torch.tensor([False, True, False]), [1]),
        (torch.zeros(3, dtype=torch.bool), []),
    ],
)
def test_polygon_indexing(item, kept):
    masks = PolygonMasks([[rectangle(0, 0, i + 1, 1)] for i in range(3)])
    assert masks[item].area().tolist() == [k + 1 for k in kept]


def test_polygon_indexing_refuses():
    masks = PolygonMasks([[rectangle(0, 0, 1, 1)]])
    with pytest.raises(ValueError, match="Unsupported tensor dtype=torch.float32"):
        masks[torch.tensor([0.0])]
    with pytest.raises(AssertionError):
        masks[torch.zeros(1, 1, dtype=torch.bool)]


def test_roi_masks():
    tensor = torch.rand(3, 4, 4)
    masks = ROIMasks(tensor)
    assert len(masks) == 3 and masks.device == tensor.device
    assert torch.equal(masks[1:].tensor, tensor[1:])
    assert torch.equal(masks[torch.tensor([True, False, True])].tensor, tensor[::2])
    assert torch.equal(masks.to("cpu").tensor, tensor)
    assert repr(masks) == "ROIMasks(num_instances=3)"
    with pytest.raises(ValueError, match=r"returns a tensor with shape torch.Size\(\[4, 4\]\)"):
        masks[0]
    with pytest.raises(ValueError, match="3 dimension"):
        ROIMasks(tensor[0])


def test_roi_masks_to_bitmasks():
    tensor = torch.tensor([[[0.6, 0.2], [0.9, 0.4]]]).repeat(2, 1, 1)
    boxes = Boxes([[2, 1, 6, 3], [0, 0, 2, 2]])
    masks = ROIMasks(tensor).to_bitmasks(boxes, 5, 8)
    assert isinstance(masks, BitMasks) and masks.tensor.shape == (2, 5, 8)
    assert masks.tensor[1].nonzero().tolist() == [[0, 0], [1, 0]]
    strict = ROIMasks(tensor).to_bitmasks(boxes, 5, 8, threshold=0.7)
    assert strict.tensor[1].nonzero().tolist() == [[1, 0]]
    with pytest.raises(TypeError):  # nobody says where the masks lie
        BitMasks.from_roi_masks(ROIMasks(tensor), 5, 8)
    none = ROIMasks(tensor[:0]).to_bitmasks(Boxes([]), 5, 8)
    assert none.tensor.shape == (0, 5, 8) and none.tensor.dtype == torch.bool
