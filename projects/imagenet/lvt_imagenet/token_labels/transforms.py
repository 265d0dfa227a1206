"""timm's training transforms, which also tell what part of the image they show."""

import random

from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor, rand
from torchvision import transforms as tv
from torchvision.transforms import functional as tvf

from lvt_d2.errors import ConfigError
from lvt_imagenet import posterize
from lvt_imagenet.token_labels.batch import View

posterize.install()  # before a policy is made: Pillow 13 refuses what timm asks of it

_GEOMETRIC = (
    RandomResizedCropAndInterpolation,
    tv.Resize,
    tv.CenterCrop,
    tv.RandomHorizontalFlip,
    tv.RandomVerticalFlip,
)
_UNTRACKED = {
    "CenterCropOrPad", "Patchify", "RandomCropOrPad", "RandomResizedCropToSequence",
    "ResizeKeepRatio", "TfPreprocessTransform", "TrimBorder",
}  # fmt: skip


class TrackedTransform:
    """A transform made by `timm.data.create_transform`, with the same numbers for the same seeds.

    Crops and flips are recorded. What follows them changes the image only, as in the published
    token-label code: colours and erasing don't move anything, but the rotations, shears and shifts
    among RandAugment's operations do, and labels stay where they were. At the strength of LVT's
    recipe (m9) these move a pixel by up to 30 degrees or a fifth of the side.

    Args:
        transform: the transform, its steps in order.

    Raises:
        ConfigError: it has geometry that can't be recorded, as padding.
    """

    def __init__(self, transform: tv.Compose):
        steps = transform.transforms if isinstance(transform, tv.Compose) else [transform]
        names = [type(step).__name__ for step in steps]
        count = next(
            (i for i, step in enumerate(steps) if not isinstance(step, _GEOMETRIC)), len(steps)
        )
        untracked = sorted(_UNTRACKED.intersection(names))
        late = [type(step).__name__ for step in steps[count:] if isinstance(step, _GEOMETRIC)]
        if untracked or late:
            raise ConfigError(
                f"The transform has {', '.join(untracked or late)}, which token labels can't "
                "follow; expected a random resized crop, or resize and centre crop, then flips, "
                "before all else. Leave train_crop_mode at 'rrc', and tf_preprocessing off."
            )
        self.geometric = steps[:count]
        self.pixelwise = tv.Compose(steps[count:])

    def __call__(self, image: Image.Image) -> tuple[Tensor, View]:
        """The transformed image, and what of the given one it shows."""
        crop, hflip, vflip = (0.0, 0.0, 1.0, 1.0), False, False
        for step in self.geometric:
            if isinstance(step, RandomResizedCropAndInterpolation):
                crop = _within(crop, image, box := step.get_params(image, step.scale, step.ratio))
                image = tvf.resized_crop(image, *box, step.size, _interpolation(step))
            elif isinstance(step, tv.RandomHorizontalFlip):
                if rand(1) < step.p:
                    image, hflip = tvf.hflip(image), not hflip
            elif isinstance(step, tv.RandomVerticalFlip):
                if rand(1) < step.p:
                    image, vflip = tvf.vflip(image), not vflip
            elif isinstance(step, tv.CenterCrop):
                crop = _within(crop, image, _centre(image, step.size))
                image = step(image)
            else:
                image = step(image)
        return self.pixelwise(image), View(crop, hflip, vflip)

    def __repr__(self) -> str:
        return f"TrackedTransform(geometric={self.geometric}, pixelwise={self.pixelwise})"


def _interpolation(step: RandomResizedCropAndInterpolation) -> tvf.InterpolationMode:
    modes = step.interpolation
    return random.choice(modes) if isinstance(modes, (tuple, list)) else modes


def _centre(image: Image.Image, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Top, left, height and width of a centre crop; it pads what is smaller."""
    height, width = size
    top = int(round((image.height - height) / 2.0))
    left = int(round((image.width - width) / 2.0))
    return top, left, height, width


def _within(
    crop: tuple[float, float, float, float], image: Image.Image, box: tuple[int, int, int, int]
) -> tuple[float, float, float, float]:
    """A box in pixels of what ``crop`` shows, as fractions of the whole image's sides."""
    top, left, height, width = crop
    i, j, h, w = box
    return (
        top + height * i / image.height,
        left + width * j / image.width,
        height * h / image.height,
        width * w / image.width,
    )
