"""What dataset mappers share: reading images, and what to do with broken ones."""

import copy
import logging
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import transforms as T

from lvt_d2.data.counter import SharedCounter
from lvt_d2.data.reading import IMAGE_FORMATS, read_image
from lvt_d2.errors import ConfigError, DatasetError

logger = logging.getLogger(__name__)

MIN_SIZE = 32  # the backbone's coarsest stride: it can't see less than one such cell
_MOST_IN_A_ROW = 50  # broken images on end: not some are broken, but the set is


class ImageMapper:
    """Base of mappers; subclasses implement ``_map``, which may change the dict that it gets.

    Args:
        is_train: whether labels are read.
        augmentations: Detectron2 augmentations, applied to image and labels together.
        image_format: channel order of ``image``, ``"RGB"`` or ``"BGR"``.
        min_size: least side in pixels of an image once it is augmented.
        skip_broken: a `DatasetError` in training is logged, counted in ``num_skipped`` and answered
            with None; otherwise it is raised.

    Raises:
        ConfigError: an argument can't be what is meant.
    """

    def __init__(
        self,
        is_train: bool,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        min_size: int,
        skip_broken: bool,
    ):
        check_choice("image_format", image_format, IMAGE_FORMATS)
        if min_size < 0:
            raise ConfigError(f"the mapper's min_size is {min_size}; expected 0 or more pixels")
        self.is_train = is_train
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format
        self.min_size = min_size
        self._skipped = SharedCounter() if is_train and skip_broken else None
        self._skipped_in_a_row = 0

    @property
    def num_skipped(self) -> int:
        """Broken images that were skipped so far, by all workers of this process."""
        return self._skipped.value if self._skipped is not None else 0

    def __call__(self, dataset_dict: dict) -> dict | None:
        """Map one dict, which stays as it is; None where ``skip_broken`` skips it."""
        try:
            result = self._map(copy.copy(dataset_dict))
        except DatasetError as error:
            if self._skipped is None:
                raise
            self._skip(error)
            return None
        self._skipped_in_a_row = 0
        return result

    def _skip(self, error: DatasetError) -> None:
        total = self._skipped.increment()
        logger.warning("Skipped a broken training image (%d in all): %s", total, error)
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= _MOST_IN_A_ROW:
            raise DatasetError(
                f"{_MOST_IN_A_ROW} training images in a row were broken and skipped ({total} in "
                f"all): the set is broken as a whole. The last one: {error}"
            ) from error

    def _map(self, result: dict) -> dict:
        raise NotImplementedError

    def _read_image(self, dataset_dict: dict) -> np.ndarray:
        """The image (H, W, 3) uint8; its size is compared with the dict's, or set there."""
        path = dataset_dict["file_name"]
        image = read_image(path, self.image_format)
        found = image.shape[:2]
        expected = (dataset_dict.get("height", found[0]), dataset_dict.get("width", found[1]))
        if found != expected:
            raise DatasetError(
                f"the image {path} has {found[0]}x{found[1]} pixels (height x width), but its JSON "
                f"says {expected[0]}x{expected[1]}; images and JSON must come from the same release"
            )
        dataset_dict.setdefault("height", found[0])
        dataset_dict.setdefault("width", found[1])
        return image

    def _check_size(self, size: tuple[int, int], what: str, remedy: str) -> None:
        if min(size) < self.min_size:
            raise DatasetError(
                f"{what} has {size[0]}x{size[1]} pixels (height x width); each side must have at "
                f"least {self.min_size}. {remedy}, or set the mapper's min_size"
            )

    def _to_tensor(self, image: np.ndarray, dataset_dict: dict) -> torch.Tensor:
        what = f"the image {dataset_dict['file_name']}, augmented,"
        self._check_size(image.shape[:2], what, "Resize it less, leave it out")
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise a ConfigError unless a mapper's option is one of ``choices``."""
    if value not in choices:
        raise ConfigError(f"the mapper's {name} is {value!r}; expected one of {choices}")
