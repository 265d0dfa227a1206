"""Masks and their borders, colours, and the methods that draw one thing."""

import random

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import Metadata
from detectron2.utils.colormap import colormap, random_color, random_colors
from detectron2.utils.visualizer import GenericMask, VisImage, Visualizer
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from scipy import ndimage

GREY = np.full((80, 120, 3), 128, dtype=np.uint8)
RED = (1.0, 0.0, 0.0)


def square(y0=20, x0=30, y1=60, x1=90, shape=(80, 120)):
    mask = np.zeros(shape, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def changed(output, image=GREY):
    return (np.abs(output.get_image().astype(int) - image) > 2).any(axis=2)


# Borders


def bitmaps():
    shapes = array_shapes(min_dims=2, max_dims=2, min_side=3, max_side=9)
    return arrays(np.bool_, shapes)


@settings(max_examples=200, deadline=None)
@given(bitmaps())
def test_borders_of_any_bitmap(bitmap):
    height, width = bitmap.shape
    mask = GenericMask(bitmap, height, width)
    padded = np.pad(bitmap, 1)
    eight = np.ones((3, 3))
    holes = ndimage.label(~padded)[1] - 1
    assert mask.has_holes == (holes > 0)
    on_border = bitmap & ~ndimage.binary_erosion(padded)[1:-1, 1:-1]
    seen = np.zeros_like(bitmap)
    for polygon in mask.polygons:
        points = polygon.reshape(-1, 2) - 0.5
        assert (points == points.astype(int)).all()
        x, y = points.astype(int).T
        assert on_border[y, x].all()
        seen[y, x] = True
        steps = np.abs(np.diff(points, axis=0, append=points[:1])).max(axis=1)
        assert (steps == 1).all()
    # Borders of fewer than 3 points are dropped, all others are complete.
    labels, count = ndimage.label(bitmap, eight)
    large = np.bincount(labels.ravel(), minlength=count + 1) > 2
    assert seen[on_border & large[labels]].all()


def test_borders_in_their_order():
    bitmap = np.zeros((9, 12), dtype=np.uint8)
    bitmap[1:4, 1:5] = 1
    bitmap[5:8, 6:11] = 1
    bitmap[6, 8] = 0
    mask = GenericMask(bitmap, 9, 12)
    lower, hole, upper = (p.reshape(-1, 2) - 0.5 for p in mask.polygons)
    assert upper.tolist() == [
        *([1, y] for y in (1, 2, 3)),
        *([x, 3] for x in (2, 3, 4)),
        [4, 2],
        *([x, 1] for x in (4, 3, 2)),
    ]
    assert lower[0].tolist() == [6, 5] and len(lower) == 12
    assert hole.tolist() == [[7, 6], [8, 5], [9, 6], [8, 7]]
    assert mask.has_holes
    # The borders run through the centres of pixels, which pycocotools rounds up.
    np.testing.assert_array_equal(mask.bbox(), [2, 2, 11, 8])
    assert mask.area() == bitmap.sum()


@pytest.mark.parametrize("bitmap", [np.zeros((4, 5)), np.eye(4, 5) * 0 + np.eye(4, 5, k=9)])
def test_nothing_in_a_bitmap(bitmap):
    mask = GenericMask(bitmap, 4, 5)
    assert mask.polygons == [] and not mask.has_holes and mask.area() == 0


def test_forms_of_masks():
    bitmap = square().astype(np.uint8)
    compressed = mask_util.encode(np.asfortranarray(bitmap))
    runs = [20 + 30 * 80] + [40, 40] * 59 + [40, 20 + 30 * 80]
    uncompressed = {"size": [80, 120], "counts": runs}
    polygon = [[30, 20, 90, 20, 90, 60, 30, 60]]
    for form in (bitmap, compressed, uncompressed, polygon):
        mask = GenericMask(form, 80, 120)
        np.testing.assert_array_equal(mask.mask, bitmap)
        assert mask.area() == 2400
        assert not mask.has_holes
        assert all(p.ndim == 1 for p in mask.polygons)
    np.testing.assert_array_equal(GenericMask(polygon, 80, 120).bbox(), [30, 20, 90, 60])
    with pytest.raises(AssertionError):
        GenericMask(bitmap, 80, 121)
    with pytest.raises(ValueError, match="cannot handle object"):
        GenericMask("mask", 80, 120)


# Colours


def test_colormap():
    for rgb in (True, False):
        colors = colormap(rgb=rgb)
        assert colors.shape == (74, 3) and colors.dtype == np.float32
        assert colors.min() == 0 and colors.max() == 255
    np.testing.assert_allclose(colormap(rgb=True)[0], 255 * np.array([0, 0.447, 0.741]), rtol=1e-6)
    np.testing.assert_array_equal(colormap(rgb=True)[:, ::-1], colormap())
    np.testing.assert_allclose(colormap(maximum=1) * 255, colormap(), rtol=1e-6)
    with pytest.raises(AssertionError):
        colormap(maximum=100)


def test_random_colors():
    palette = {tuple(c) for c in colormap(rgb=True, maximum=1).tolist()}
    np.random.seed(3)
    first = random_color(rgb=True, maximum=1)
    np.random.seed(3)
    assert tuple(random_color(maximum=1)[::-1]) == tuple(first)
    assert tuple(first.tolist()) in palette
    random.seed(0)
    several = random_colors(70, rgb=True, maximum=1)
    assert len(several) == 70 and {tuple(c.tolist()) for c in several} <= palette


# Canvas


@pytest.mark.parametrize("scale", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("shape", [(80, 120), (61, 33), (7, 5)])
def test_image_has_its_size_and_pixels(tmp_path, scale, shape):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
    output = VisImage(image, scale=scale)
    drawn = output.get_image()
    assert drawn.shape == (int(shape[0] * scale), int(shape[1] * scale), 3)
    assert drawn.dtype == np.uint8
    output.save(str(tmp_path / "image.png"))
    assert Image.open(tmp_path / "image.png").size == drawn.shape[1::-1]
    if scale == 1:
        np.testing.assert_array_equal(drawn, image)


def test_input_is_clipped_and_kept():
    image = GREY.astype(float) * 3
    visualizer = Visualizer(image)
    assert visualizer.get_output().get_image().min() == 255
    assert image.max() == 384


# One thing at a time


def test_binary_mask_covers_its_pixels():
    visualizer = Visualizer(GREY)
    output = visualizer.draw_binary_mask(square(), color=RED, alpha=0.5)
    assert output is visualizer.get_output()
    inner, outer = square(22, 32, 58, 88), square(17, 27, 63, 93)
    difference = changed(output)
    assert difference[inner].all() and not difference[~outer].any()
    pixel = output.get_image()[40, 50].astype(int)
    assert np.abs(pixel - [192, 64, 64]).max() <= 2


def test_holes_stay_free():
    mask = square()
    mask[30:50, 45:75] = False
    output = Visualizer(GREY).draw_binary_mask(mask, color="b", alpha=0.7)
    np.testing.assert_array_equal(changed(output), mask)


def test_small_pieces_are_left_out():
    mask = square(2, 2, 6, 6) | square()
    few = changed(Visualizer(GREY).draw_binary_mask(mask, color=RED, area_threshold=100))
    assert not few[:10, :10].any() and few[40, 60]
    for threshold in (None, 0, 5):
        output = Visualizer(GREY).draw_binary_mask(mask, color=RED, area_threshold=threshold)
        assert changed(output)[3, 3]


def test_text_in_masks():
    def texts(mask, **arguments):
        return Visualizer(GREY).draw_binary_mask(mask, text="label", **arguments).ax.texts

    (text,) = texts(square() | square(2, 2, 10, 10))
    assert text.get_text() == "label"
    assert np.abs(np.array(text.get_position()) - [60, 40]).max() < 1.5
    assert len(texts(np.zeros((80, 120), dtype=bool))) == 0
    assert len(texts(square(), area_threshold=1e5)) == 0


def test_empty_masks_and_polygons():
    nothing = np.zeros((80, 120), dtype=np.uint8)
    assert not changed(Visualizer(GREY).draw_binary_mask(nothing, text="x")).any()
    assert not changed(Visualizer(GREY).draw_soft_mask(nothing.astype(float), text="x")).any()


def test_soft_mask():
    soft = np.zeros((80, 120))
    soft[:, 60:] = 1.0
    soft[:, 30:60] = 0.5
    drawn = Visualizer(GREY).draw_soft_mask(soft, color=RED, alpha=0.5).get_image().astype(int)
    np.testing.assert_allclose(drawn[10, 100], [192, 64, 64], atol=2)
    np.testing.assert_allclose(drawn[10, 40], [160, 96, 96], atol=2)
    np.testing.assert_allclose(drawn[10, 10], [128, 128, 128], atol=2)


def test_box_line_circle_and_polygon():
    output = Visualizer(GREY).draw_box((30, 20, 90, 60), alpha=1, edge_color=RED)
    difference = changed(output)
    assert difference[20, 40:80].all() and not difference[25:55, 35:85].any()
    difference = changed(Visualizer(GREY).draw_line([10, 110], [40, 40], color=RED, linewidth=3))
    assert difference[40, 12:108].all() and not difference[50:].any()
    difference = changed(Visualizer(GREY).draw_circle((60, 40), color=RED, radius=5))
    assert 60 <= difference.sum() <= 140 and difference[40, 60]
    corners = np.array([[30, 20], [90, 20], [90, 60], [30, 60]])
    difference = changed(Visualizer(GREY).draw_polygon(corners, RED, alpha=0.9))
    assert difference[40, 60] and not difference[10, 60]


def test_rotated_box():
    visualizer = Visualizer(GREY)
    output = visualizer.draw_rotated_box_with_label((60, 40, 60, 20, 90), edge_color=RED, label="a")
    assert [t.get_text() for t in output.ax.texts] == ["a"]
    assert output.ax.texts[0].get_rotation() == 90
    corners = {tuple(np.round(line.get_xydata()[0]).astype(int)) for line in output.ax.lines}
    assert corners == {(50, 70), (70, 70), (70, 10), (50, 10)}
    assert sum(line.get_linestyle() == "--" for line in output.ax.lines) == 1


def test_text_is_light():
    output = Visualizer(GREY).draw_text("dark", (60, 40), color=(0, 0, 0.1), font_size=8)
    (text,) = output.ax.texts
    assert max(text.get_color()) == pytest.approx(0.8)
    assert min(text.get_color()) == pytest.approx(0.2)
    assert text.get_fontsize() == 8
    assert changed(output).any()


def test_brightness():
    visualizer = Visualizer(GREY)
    assert visualizer._change_color_brightness(RED, 0.5) == pytest.approx((1, 0.5, 0.5))
    assert visualizer._change_color_brightness(RED, -0.5) == pytest.approx((0.5, 0, 0))
    assert visualizer._change_color_brightness("white", 1) == (1, 1, 1)
    with pytest.raises(AssertionError):
        visualizer._change_color_brightness(RED, 1.5)


def test_keypoints():
    meta = Metadata(name="tests_keypoints")
    names = ["nose", "left_shoulder", "right_shoulder", "left_hip", "right_hip"]
    meta.set(
        keypoint_names=names,
        keypoint_connection_rules=[("left_shoulder", "right_shoulder", (0, 255, 0))],
    )
    points = np.array([[60, 10, 1], [50, 30, 1], [70, 30, 1], [52, 60, 1], [68, 60, 0.01]])
    output = Visualizer(GREY, meta).draw_and_connect_keypoints(points)
    assert len(output.ax.patches) == 4  # the last one is not sure enough
    lines = [line.get_xydata().tolist() for line in output.ax.lines]
    assert lines == [[[50, 30], [70, 30]], [[60, 10], [60, 30]]]
    points[4, 2] = 1
    output = Visualizer(GREY, meta).draw_and_connect_keypoints(points)
    assert output.ax.lines[-1].get_xydata().tolist() == [[60, 60], [60, 30]]
    plain = Visualizer(GREY).draw_and_connect_keypoints(points)
    assert len(plain.ax.patches) == 5 and len(plain.ax.lines) == 0
