"""Transforms: timm's numbers, and images that stay in step with their label maps."""

import random

import numpy as np
import pytest
import torch
from lvt_imagenet.posterize import posterize
from lvt_imagenet.token_labels import (
    LabelMap,
    TokenLabels,
    TokenLabelSample,
    TokenLabelTarget,
    TrackedTransform,
    View,
)
from PIL import Image
from timm.data import auto_augment, create_transform

from lvt_d2.errors import ConfigError


def _seed(number):
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def _noise(width=50, height=40):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"auto_augment": "rand-m9-mstd0.5-inc1", "interpolation": "random", "vflip": 0.5},
        {"color_jitter": 0.4, "use_prefetcher": False, "re_prob": 0.5, "grayscale_prob": 0.2},
        {"no_aug": True},
        {"hflip": 0.0, "scale": (0.5, 1.0), "ratio": (1.0, 1.0)},
    ],
)
def test_images_are_those_of_timm(options):
    options = {"is_training": True, "use_prefetcher": True, **options}
    plain = create_transform((3, 24, 32), **options)
    tracked = TrackedTransform(create_transform((3, 24, 32), **options))
    for number in range(12):
        _seed(number)
        expected = plain(_noise())
        _seed(number)
        image, _ = tracked(_noise())
        assert torch.equal(torch.as_tensor(image), torch.as_tensor(expected))
        after = random.random(), torch.rand(1)
        _seed(number)
        plain(_noise())
        assert after == (random.random(), torch.rand(1)), "as many random numbers"


def _gradient(width, height):
    """Red is the row and green the column, as fractions of 250."""
    rows, columns = ((np.arange(n) + 0.5) / n * 250 for n in (height, width))
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = rows.round()[:, None]
    pixels[..., 1] = columns.round()
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("width", "height"), [(300, 300), (400, 240), (200, 350)])
@pytest.mark.parametrize("no_aug", [False, True])
def test_labels_say_what_the_image_shows(width, height, no_aug):
    """Both encode where in the image they are; every token must agree with its pixels."""
    cells = 30
    place = (np.arange(cells) + 0.5) / cells
    scores = np.stack(np.broadcast_arrays(place[:, None], place)).astype(np.float16)
    indices = np.broadcast_to(np.arange(2)[:, None, None], scores.shape)
    transform = TrackedTransform(
        create_transform(
            84, is_training=True, no_aug=no_aug, vflip=0.5, color_jitter=None, use_prefetcher=True
        )
    )
    target = TokenLabelTarget(3, 7, 0.0)
    views = set()
    for number in range(16):
        _seed(number)
        image, view = transform(_gradient(width, height))
        views.add((view.hflip, view.vflip))
        sample = TokenLabelSample(LabelMap(scores, indices.astype(np.int32)), view, 0, "x")
        dense = target(TokenLabels.stack([sample]))[0, :, 2:]
        logits = (dense[:2] / dense[2]).log().view(2, 7, 7)
        shown = image[:2].float().view(2, 7, 12, 7, 12).mean((2, 4)) / 250
        # RoIAlign keeps half a cell of distance from the border.
        shown = shown.clamp(place[0], place[-1])
        torch.testing.assert_close(logits, shown, atol=0.012, rtol=0)
    assert len(views) == (1 if no_aug else 4)


def test_centre_of_a_resized_image():
    transform = create_transform(20, is_training=True, no_aug=True, use_prefetcher=True)
    image, view = TrackedTransform(transform)(_noise(80, 40))
    assert image.shape == (3, 20, 20)
    assert view == View((0.0, 0.25, 1.0, 0.5))


def test_colours_do_not_move_the_view():
    policy = create_transform(
        32, is_training=True, scale=(1, 1), ratio=(1, 1), hflip=0, auto_augment="rand-m9-n4",
        use_prefetcher=True,
    )  # fmt: skip
    _seed(0)
    assert all(TrackedTransform(policy)(_noise(32, 32))[1] == View() for _ in range(5))


@pytest.mark.parametrize("mode", ["rkrc", "rkrr"])
def test_padding_can_not_be_followed(mode):
    transform = create_transform(32, is_training=True, train_crop_mode=mode)
    with pytest.raises(ConfigError, match=r"ResizeKeepRatio.*train_crop_mode at 'rrc'"):
        TrackedTransform(transform)


def test_geometry_after_colours_can_not_be_followed():
    transform = create_transform(32, is_training=True)
    transform.transforms.reverse()
    with pytest.raises(ConfigError, match="RandomHorizontalFlip"):
        TrackedTransform(transform)


def test_it_tells_its_steps():
    text = repr(TrackedTransform(create_transform(32, is_training=True, color_jitter=0.4)))
    assert "RandomResizedCrop" in text and "ColorJitter" in text


def test_posterize_of_the_recipe():
    image = _noise()
    assert posterize(image, 8, fillcolor=0) is image
    assert np.asarray(posterize(image, 0)).max() == 0
    assert set(np.unique(posterize(image, 1))) == {0, 128}
    for name in ("Posterize", "PosterizeIncreasing", "PosterizeOriginal"):
        assert auto_augment.AugmentOp(name).aug_fn is posterize
    strongest = auto_augment.AugmentOp("PosterizeIncreasing", prob=1, magnitude=10)
    assert np.asarray(strongest(image)).max() == 0
