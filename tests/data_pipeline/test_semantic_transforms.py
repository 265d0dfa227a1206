"""Against the recorded outputs of the published pipeline, draw by draw."""

import json

import detectron2.data.transforms as T
import numpy as np
import pytest

from lvt_d2.data import (
    CategoryAreaCrop,
    PadToSize,
    PhotometricDistortion,
    ResizeInRange,
    ResizeKeepRatio,
    ResizeToMultiple,
)
from lvt_d2.data.photometric import hsv_to_rgb, rgb_to_hsv
from lvt_d2.errors import ConfigError

MEAN = np.array([123.675, 116.28, 103.53])
STD = np.array([58.395, 57.12, 57.375])
CROP = 64


@pytest.fixture(scope="module")
def recorded(goldens):
    return np.load(goldens / "official/segdata.npz")


@pytest.fixture(scope="module")
def facts(goldens):
    return json.loads((goldens / "official/segdata.json").read_text())


def to_test_size(image):
    """What the network is given at test time, before normalisation."""
    augmentations = [ResizeKeepRatio(short_edge=512, max_size=2048), ResizeToMultiple(32)]
    return T.apply_augmentations(augmentations, image)


@pytest.mark.parametrize(("h", "w"), [(60, 83), (97, 61)])
def test_published_test_input(recorded, synth, h, w):
    image = np.ascontiguousarray(synth.image_u8(0, h, w, 16)[:, :, ::-1])
    found, _ = to_test_size(image)
    name = f"testpipe_img_{h}x{w}_out"
    assert found.shape == tuple(recorded[f"{name}shape"][[1, 2, 0]])
    expected = recorded[f"{name}_sub8"].transpose(1, 2, 0) * STD + MEAN
    # Levels of the picture: the same arithmetic, so only float32 against float64 remains.
    assert np.abs(found[::8, ::8] - expected).max() < 1e-3
    once = T.apply_augmentations([T.Resize(found.shape[:2])], image)[0]
    assert np.abs(once[::8, ::8] - expected).max() > 1  # one resize is another picture
    factors = recorded[f"testpipe_img_{h}x{w}_scale_factor"]
    np.testing.assert_allclose(np.array(found.shape[1::-1]) / (w, h), factors[:2], rtol=1e-6)


def test_published_test_sizes(facts):
    for h, w, mid_h, mid_w, new_h, new_w in facts["aligned_resize_hw__rescaled_hw__final_hw"]:
        assert ResizeKeepRatio.output_size(h, w, 512, 2048) == (mid_h, mid_w)
        if max(new_h, new_w) <= 1024:
            found, transforms = to_test_size(np.zeros((h, w), np.uint8))
            assert found.shape == (new_h, new_w)
            box = transforms.apply_box(np.array([[0, 0, w, h]]))
            np.testing.assert_allclose(box, [[0, 0, new_w, new_h]], rtol=1e-6)


def test_published_training_sizes(recorded):
    augmentation = ResizeInRange((2048, 512), (0.5, 2.0))
    image = np.zeros((300, 400), np.uint8)
    for seed, long, short, new_h, new_w in recorded["train_resize_npseed_scaleL_scaleS_h_w"]:
        np.random.seed(seed)
        transform = augmentation.get_transform(image)
        assert (transform.new_h, transform.new_w) == (new_h, new_w)
        assert ResizeKeepRatio.output_size(300, 400, short, long) == (new_h, new_w)


def test_published_crops(recorded):
    labels = recorded["randomcrop_seg"]
    augmentation = CategoryAreaCrop((CROP, CROP), 0.75)
    for array, seg in (
        ("randomcrop_npseed_y_x_h_w", labels),
        ("randomcrop_small50x80_npseed_y_x_h_w", labels[:50, :80]),
    ):
        for seed, y, x, h, w in recorded[array]:
            np.random.seed(seed)
            crop = augmentation.get_transform(seg, seg)
            assert (crop.y0, crop.x0, crop.h, crop.w) == (y, x, h, w)


def test_last_crop_is_unchecked():
    labels = np.zeros((100, 100), np.uint8)
    labels[0, 0] = 1
    np.random.seed(3)
    crop = CategoryAreaCrop((10, 10)).get_transform(labels, labels)
    np.random.seed(3)
    draws = [(np.random.randint(0, 91), np.random.randint(0, 91)) for _ in range(11)]
    assert (crop.y0, crop.x0) == draws[-1]


@pytest.mark.parametrize(
    ("ignored", "limit", "accepted"),
    [(0, 0.75, False), (40, 0.75, False), (40, 0.76, True), (41, 0.75, True)],
)
def test_ignored_pixels_do_not_count(ignored, limit, accepted):
    """75 pixels of one class and 25 of another; some of the first are ignored."""
    labels = np.repeat([7, 9], [75, 25]).reshape(10, 10).astype(np.uint8)
    labels.flat[: max(ignored - 40, 0)] = 255  # 40 ignored ones stand for none
    found = CategoryAreaCrop((10, 10), limit)._is_mixed(labels)
    assert found == accepted


@pytest.mark.parametrize("labels", [np.full((30, 30), 255, np.uint8), None])
def test_crops_without_labels(labels):
    image = np.zeros((30, 30, 3), np.uint8)
    crop = CategoryAreaCrop((8, 9)).get_transform(image, labels)
    assert (crop.h, crop.w) == (8, 9)


def test_crop_is_drawn_once_where_all_are_allowed():
    labels = np.zeros((30, 30), np.uint8)
    np.random.seed(0)
    CategoryAreaCrop((8, 8), 1.0).get_transform(labels, labels)
    after = np.random.random_sample()
    np.random.seed(0)
    np.random.randint(0, 23), np.random.randint(0, 23)
    assert after == np.random.random_sample()


def test_crop_draws_every_place():
    np.random.seed(0)
    labels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    augmentation = CategoryAreaCrop((2, 3))
    crops = [augmentation.get_transform(labels, labels) for _ in range(200)]
    assert {(c.y0, c.x0) for c in crops} == {(y, x) for y in range(3) for x in range(2)}


@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
def test_published_photometric_distortion(recorded, image_format):
    order = slice(None, None, -1 if image_format == "RGB" else 1)
    image = recorded["pmd_in_bgr"][..., order]
    before = image.copy()
    for seed, expected in enumerate(recorded["pmd_out_npseed0.."]):
        np.random.seed(seed)
        found = PhotometricDistortion(image_format).get_transform(image).apply_image(image)
        np.testing.assert_array_equal(found[..., order], expected)  # bit by bit
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("seed", range(4))
def test_published_training_input(recorded, facts, synth, seed):
    """The whole pipeline, with its random numbers."""
    bgr, labels = synth.image_u8(70, 120, 150, 16), synth.labels_u8(70, 120, 150)
    sample = T.AugInput(np.ascontiguousarray(bgr[..., ::-1]), sem_seg=labels)
    augmentations = [
        ResizeInRange((256, CROP), (0.5, 2.0)),
        CategoryAreaCrop((CROP, CROP), 0.75),
        T.RandomFlip(0.5),
        PhotometricDistortion("RGB"),
        PadToSize((CROP, CROP), MEAN),
    ]
    np.random.seed(seed)
    transforms = sample.apply_augmentations(augmentations)
    flipped = isinstance(transforms.transforms[2], T.HFlipTransform)
    assert [seed, int(flipped)] == facts["trainpipe_flips"][seed]
    np.testing.assert_array_equal(sample.sem_seg, recorded[f"trainpipe_seg_npseed{seed}"])
    found = (sample.image.astype(np.float32) - MEAN.astype(np.float32)) / STD.astype(np.float32)
    expected = recorded[f"trainpipe_img_npseed{seed}"].transpose(1, 2, 0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_hsv_and_back(recorded):
    image = recorded["pmd_in_bgr"][..., ::-1]
    back = np.stack(hsv_to_rgb(*rgb_to_hsv(*np.moveaxis(image, -1, 0))), axis=-1)
    assert np.abs(back.astype(int) - image).max() <= 6  # hues are steps of 2 degrees
    greys = np.arange(256, dtype=np.uint8)[None]
    hue, saturation, value = rgb_to_hsv(greys, greys, greys)
    assert not hue.any() and not saturation.any()
    np.testing.assert_array_equal(value, greys)


def test_padding_is_zero_once_normalised():
    image = np.full((3, 5, 3), 9, np.uint8)
    sample = T.AugInput(image, sem_seg=np.zeros((3, 5), np.uint8))
    (transform,) = sample.apply_augmentations([PadToSize((4, 4), MEAN)]).transforms
    assert sample.image.dtype == np.float32
    normalised = sample.image - MEAN.astype(np.float32)
    assert not normalised[3].any() and (sample.image[:3] == 9).all()
    assert sample.sem_seg.tolist() == [[0] * 5] * 3 + [[255] * 5]
    assert transform.inverse().apply_image(sample.image).shape == (3, 5, 3)
    assert transform.apply_coords(np.array([[1.0, 2.0]])).tolist() == [[1, 2]]


def test_nothing_to_do():
    image = np.zeros((64, 96, 3), np.uint8)
    for augmentation in (PadToSize((64, 64), MEAN), ResizeToMultiple(32)):
        assert isinstance(augmentation.get_transform(image), T.NoOpTransform)


@pytest.mark.parametrize(
    ("augmentation", "arguments", "message"),
    [
        (ResizeInRange, {"scale": (512,)}, "scale is (512,)"),
        (ResizeInRange, {"scale": (8, 1)}, "at least 1 pixel at the ratio 0.5"),
        (ResizeInRange, {"scale": (8, 8), "ratio_range": (2, 1)}, "ratio_range is (2, 1)"),
        (ResizeToMultiple, {"divisor": 0}, "divisor is 0"),
        (CategoryAreaCrop, {"crop_size": (0, 8)}, "crop_size is (0, 8)"),
        (CategoryAreaCrop, {"crop_size": (8, 8), "max_category_area": 1.5}, "is 1.5"),
        (PadToSize, {"size": (8,), "color": MEAN}, "size is (8,)"),
        (PhotometricDistortion, {"image_format": "L"}, "image_format is 'L'"),
        (PhotometricDistortion, {"image_format": "RGB", "contrast": (2, 1)}, "contrast is (2, 1)"),
        (PhotometricDistortion, {"image_format": "RGB", "hue": 0}, "hue 0"),
        (PhotometricDistortion, {"image_format": "RGB", "brightness": -1}, "brightness is -1"),
    ],
)
def test_bad_arguments(augmentation, arguments, message):
    with pytest.raises(ConfigError) as caught:
        augmentation(**arguments)
    assert message in str(caught.value)


def test_bad_images():
    with pytest.raises(ValueError, match="8-bit colour images, not float32"):
        PhotometricDistortion("RGB").get_transform(None).apply_image(np.zeros((2, 2, 3), "f4"))
    with pytest.raises(ConfigError, match=r"color is \(1, 2\), for an image of shape \(2, 2, 3\)"):
        PadToSize((4, 4), (1, 2)).get_transform(np.zeros((2, 2, 3), np.uint8))
