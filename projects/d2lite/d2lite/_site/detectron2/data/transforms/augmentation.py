"""Random policies that look at an input and choose a transform, and the input they look at."""

import inspect

import numpy as np
from fvcore.transforms.transform import Transform, TransformList

__all__ = ["Augmentation", "AugmentationList", "AugInput", "TransformGen", "apply_transform_gens"]
__all__ += ["StandardAugInput", "apply_augmentations"]


def _get_aug_input_args(aug: "Augmentation", aug_input: "AugInput") -> list:
    """Attributes of the input that ``aug.get_transform`` wants, by its argument names.

    A single argument always gets the image, whatever its name.
    """
    if aug.input_args is None:
        parameters = inspect.signature(aug.get_transform).parameters
        variable = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
        if len(parameters) > 1 and any(x.kind in variable for x in parameters.values()):
            raise TypeError(f"{type(aug)} has variable-length arguments: reimplement __call__.")
        aug.input_args = ("image",) if len(parameters) == 1 else tuple(parameters)
    try:
        return [getattr(aug_input, name) for name in aug.input_args]
    except AttributeError as error:
        raise AttributeError(f"{type(aug)} needs input attribute '{error.name}'") from error


class Augmentation:
    """Chooses a ``Transform`` for an input, at random or not.

    Subclasses implement ``get_transform``; the names of its arguments say which attributes of the
    input it needs (``image`` if there is only one). Its random numbers come from ``np.random``.
    """

    input_args: tuple[str, ...] | None = None

    # Makes public constructor arguments, given as `locals()`, attributes.
    _init = Transform._set_attributes

    def get_transform(self, *args) -> Transform:
        raise NotImplementedError

    def __call__(self, aug_input: "AugInput") -> Transform:
        """Choose a transform, apply it to ``aug_input`` in place and return it."""
        tfm = self.get_transform(*_get_aug_input_args(self, aug_input))
        assert isinstance(tfm, Transform), f"{self} must return an instance of Transform: {tfm}"
        aug_input.transform(tfm)
        return tfm

    def _rand_range(self, low: float = 1.0, high: float | None = None, size=None):
        """Uniform in [low, high), or in [0, low) if ``high`` is left out."""
        if high is None:
            low, high = 0, low
        return np.random.uniform(low, high, [] if size is None else size)

    def __repr__(self) -> str:
        """``Name(argument=value, ...)`` with the arguments that differ from their defaults."""
        try:
            return Transform.__repr__(self)
        except TypeError:  # not all arguments are attributes, and fvcore has no answer for others
            return super().__repr__()


class _TransformToAug(Augmentation):
    """The augmentation that always chooses the same transform."""

    input_args = ()

    def __init__(self, tfm: Transform):
        self.tfm = tfm

    def get_transform(self, *args) -> Transform:
        return self.tfm

    def __repr__(self) -> str:
        return repr(self.tfm)


def _transform_to_aug(tfm_or_aug: Transform | Augmentation) -> Augmentation:
    assert isinstance(tfm_or_aug, (Transform, Augmentation)), tfm_or_aug
    return tfm_or_aug if isinstance(tfm_or_aug, Augmentation) else _TransformToAug(tfm_or_aug)


class AugmentationList(Augmentation):
    """Augmentations one after the other, each seeing what the ones before made of the input.

    Args:
        augs: augmentations or transforms.
    """

    def __init__(self, augs):
        self.augs = [_transform_to_aug(x) for x in augs]

    def __call__(self, aug_input: "AugInput") -> TransformList:
        return TransformList([aug(aug_input) for aug in self.augs])

    def __repr__(self) -> str:
        return f"AugmentationList[{', '.join(map(str, self.augs))}]"


class AugInput:
    """What augmentations look at and change together.

    Args:
        image: (H, W) or (H, W, C), uint8 in 0..255 or floating point.
        boxes: (N, 4) XYXY, pixels, or None.
        sem_seg: (H, W) labels, or None.
    """

    def __init__(self, image: np.ndarray, *, boxes=None, sem_seg=None):
        assert isinstance(image, np.ndarray), f"Needs an numpy array, but got a {type(image)}!"
        assert image.ndim in [2, 3], image.ndim
        self.image, self.boxes, self.sem_seg = image, boxes, sem_seg

    def transform(self, tfm: Transform) -> None:
        """Apply ``tfm`` to all attributes, in place."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(self, augmentations) -> TransformList:
        """Apply augmentations or transforms in order; returns the transforms they chose."""
        return AugmentationList(augmentations)(self)


def apply_augmentations(augmentations, inputs):
    """Apply augmentations to an image array or to an ``AugInput``.

    Returns:
        the augmented image if an array was given, else ``inputs`` (changed in place), and the
        ``TransformList`` that was applied.
    """
    aug_input = AugInput(inputs) if isinstance(inputs, np.ndarray) else inputs
    tfms = aug_input.apply_augmentations(augmentations)
    return inputs if aug_input is inputs else aug_input.image, tfms


# Names of older releases.
apply_transform_gens = apply_augmentations
TransformGen = Augmentation
StandardAugInput = AugInput
