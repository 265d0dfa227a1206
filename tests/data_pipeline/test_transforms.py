import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lvt_d2.data import BilinearResizeTransform, ResizeKeepRatio
from lvt_d2.data.transforms import resize_bilinear_uint8, resize_nearest

MEAN = np.array([123.675, 116.28, 103.53])[:, None, None]
STD = np.array([58.395, 57.12, 57.375])[:, None, None]


def network_input(image: np.ndarray) -> np.ndarray:
    """Every 16th pixel of an RGB image, normalised and zero-padded to multiples of 32."""
    planes = (image.transpose(2, 0, 1) - MEAN) / STD
    pads = [(0, -side % 32) for side in planes.shape[1:]]
    return np.pad(planes, [(0, 0), *pads])[:, ::16, ::16]


def resized(image: np.ndarray) -> np.ndarray:
    return ResizeKeepRatio(800, 1333).get_transform(image).apply_image(image)


@pytest.mark.parametrize("stem", ["142238", "439180"])
def test_published_network_input_of_photographs(goldens, coco_sample, stem):
    image = np.asarray(Image.open(coco_sample / f"images/000000{stem}.jpg").convert("RGB"))
    found = network_input(resized(image))
    for file, array in (
        ("pan.npz", f"input_sub16_{stem}"),
        ("panextra.npz", f"traindata_img_sub16_{stem}"),
    ):
        expected = np.load(goldens / "official" / file)[array]
        # The arithmetic is the same, so only float32 against float64 remains.
        assert np.abs((found - expected) * STD).max() < 1e-3


def test_published_network_input_of_a_made_up_picture(goldens, synth):
    bgr = synth.image_u8(21, 333, 500, 32)
    found = network_input(resized(np.ascontiguousarray(bgr[:, :, ::-1])))
    expected = np.load(goldens / "official/panextra.npz")["input_sub16_rule_s21_333x500"]
    assert np.abs((found - expected) * STD).max() < 1e-3


def test_published_sizes(goldens):
    rows = json.loads((goldens / "official/panextra.json").read_text())
    for h, w, new_h, new_w, *_ in rows["test_resize_hw__resized_hw__padded_hw"]:
        assert ResizeKeepRatio.output_size(h, w, 800, 1333) == (new_h, new_w)


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (40, 31), (13, 200), (20, 33)])
@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_integer_arithmetic_is_near_the_exact_one(size, channels):
    image = np.random.default_rng(0).integers(0, 256, (20, 33, *channels), np.uint8)
    found = resize_bilinear_uint8(image, *size)
    planes = torch.from_numpy(image).double().reshape(20, 33, -1).permute(2, 0, 1)[None]
    exact = F.interpolate(planes, size, mode="bilinear", align_corners=False)
    exact = exact[0].permute(1, 2, 0).reshape(found.shape).numpy()
    assert found.dtype == np.uint8
    assert np.abs(found - exact).max() <= 1
    if size == (20, 33):
        np.testing.assert_array_equal(found, image)


def test_constant_images_stay_constant():
    for value in (0, 1, 127, 255):
        image = np.full((17, 23, 3), value, np.uint8)
        assert np.abs(resize_bilinear_uint8(image, 41, 9).astype(int) - value).max() <= 1


def test_float_images_are_not_rounded():
    image = np.random.default_rng(0).random((6, 8, 2), np.float32)
    found = BilinearResizeTransform(6, 8, 9, 5).apply_image(image)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]
    expected = F.interpolate(planes, (9, 5), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(found, expected[0].permute(1, 2, 0).numpy(), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_nearest_takes_the_floor(dtype):
    labels = np.arange(7 * 9).reshape(7, 9).astype(dtype)
    found = BilinearResizeTransform(7, 9, 16, 4).apply_segmentation(labels)
    assert found.dtype == dtype
    for i in range(16):
        for j in range(4):
            assert found[i, j] == labels[i * 7 // 16, j * 9 // 4]
    np.testing.assert_array_equal(resize_nearest(labels, 7, 9), labels)


def test_coordinates_boxes_and_inverse():
    transform = BilinearResizeTransform(10, 20, 30, 40)
    np.testing.assert_allclose(transform.apply_coords(np.array([[5.0, 5.0]])), [[10, 15]])
    np.testing.assert_allclose(transform.apply_box(np.array([[1, 2, 3, 4]])), [[2, 6, 6, 12]])
    back = transform.inverse()
    assert (back.h, back.w, back.new_h, back.new_w) == (30, 40, 10, 20)


def test_wrong_image_for_a_transform():
    transform = BilinearResizeTransform(10, 20, 30, 40)
    with pytest.raises(ValueError, match=r"made for 10x20.*\(10, 21\)"):
        transform.apply_image(np.zeros((10, 21), np.uint8))


def test_range_draws_every_length():
    np.random.seed(0)
    image = np.zeros((100, 120, 3), np.uint8)
    augmentation = ResizeKeepRatio((50, 53), 1333)
    drawn = {augmentation.get_transform(image).new_h for _ in range(100)}
    assert drawn == {50, 51, 52, 53}


def test_choice_draws_the_given_lengths():
    np.random.seed(0)
    image = np.zeros((100, 120, 3), np.uint8)
    augmentation = ResizeKeepRatio((50, 60, 90), 1333, "choice")
    drawn = {augmentation.get_transform(image).new_h for _ in range(50)}
    assert drawn == {50, 60, 90}


def test_long_side_is_limited_and_thin_images_keep_a_pixel():
    assert ResizeKeepRatio.output_size(100, 1000, 800, 500) == (50, 500)
    assert ResizeKeepRatio.output_size(1, 5000, 800, 500) == (1, 500)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"short_edge": (800, 640)}, "low <= high"),
        ({"short_edge": (640, 700, 800)}, "low, high"),
        ({"short_edge": 0}, "at least 1 pixel"),
        ({"short_edge": 640, "max_size": 0}, "at least 1 pixel"),
        ({"short_edge": 640, "sample_style": "all"}, "'all'"),
        ({"short_edge": (), "sample_style": "choice"}, "at least 1 pixel"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResizeKeepRatio(**arguments)
