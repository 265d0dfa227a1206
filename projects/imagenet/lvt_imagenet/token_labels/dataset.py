"""timm's data sets with the label map of every image."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from timm.data import ImageDataset, IterableImageDataset
from torch.utils.data import Dataset, IterableDataset

from lvt_d2.data.counter import SharedCounter
from lvt_d2.errors import ConfigError, DatasetError
from lvt_imagenet.token_labels.batch import LabelMap, TokenLabelSample
from lvt_imagenet.token_labels.info import check_classes
from lvt_imagenet.token_labels.names import class_and_stem, class_names
from lvt_imagenet.token_labels.transforms import TrackedTransform

logger = logging.getLogger(__name__)

_MAX_UNREADABLE = 10  # in a row: then the set is broken, not a file; timm's number


UNREADABLE = (OSError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises on files that are damaged or no images."""


class LabelStore(Protocol):
    """What can give the label map of an image: `OfficialLabels` and `CompactLabels`.

    Attributes:
        root: folder or file of the maps.
        num_classes: indices of classes are below it.
    """

    root: Path
    num_classes: int

    def read(self, class_name: str, stem: str) -> LabelMap:
        """The map of the image ``<class_name>/<stem>``."""


class _WithLabels:
    """The transform and the class names that both kinds of data sets have."""

    def __init__(self, dataset: Any, labels: LabelStore):
        self.dataset = dataset
        self.labels = labels
        self.reader = dataset.reader
        self._class_names = class_names(self.reader)
        check_classes(labels.root, self._class_names)
        self._transform: TrackedTransform | None = None
        if dataset.transform is not None:
            self.transform = dataset.transform

    @property
    def transform(self) -> TrackedTransform | None:
        """Set by `timm.data.create_loader` to a plain one, which is then tracked."""
        return self._transform

    @transform.setter
    def transform(self, transform: Callable | None) -> None:
        if transform is not None and not isinstance(transform, TrackedTransform):
            transform = TrackedTransform(transform)
        self._transform = transform

    def _sample(self, image: Image.Image, target: Any, name: str) -> tuple:
        if self.transform is None:
            raise ConfigError(
                "The data set has no transform; make its loader with create_token_label_loader, "
                "or set one."
            )
        if self.dataset.target_transform is not None:
            target = self.dataset.target_transform(target)
        target = int(target)
        if not 0 <= target < self.labels.num_classes:
            raise DatasetError(
                f"Image {name} is of class {target}, but the model and its token labels have "
                f"{self.labels.num_classes} classes, from 0. Set num_classes to the data set's."
            )
        label_map = self.labels.read(*class_and_stem(name, target, self._class_names))
        image, view = self.transform(image)
        return image, TokenLabelSample(label_map, view, target, name)


class TokenLabelDataset(_WithLabels, Dataset):
    """An `ImageDataset` (folder, tar, ``hfds/``) whose targets are `TokenLabelSample`.

    An unreadable image is named in the log and counted, and the next one taken in its place.

    Args:
        dataset: the images, and the transform if it has one already.
        labels: their label maps.

    Attributes:
        unreadable: count of unreadable images over all workers of this process.

    Raises:
        ConfigError: images of this data set have no names, or it is of another kind.
    """

    def __init__(self, dataset: ImageDataset, labels: LabelStore):
        if not isinstance(dataset, ImageDataset):
            raise ConfigError(
                f"Token labels need the file name of every image, and a {type(dataset).__name__} "
                "does not tell them; expected one of timm's data sets over a folder, tar files, "
                "hfds/ or wds/."
            )
        super().__init__(dataset, labels)
        self.unreadable = SharedCounter()

    def __getitem__(self, index: int) -> tuple:
        for attempt in range(_MAX_UNREADABLE):
            at = (index + attempt) % len(self)
            try:
                image, target = read_image(self.dataset, at)
            except UNREADABLE as error:
                count = self.unreadable.increment()
                logger.warning(
                    "Image %s can't be read (%s); the next one takes its place. Unreadable "
                    "images so far: %d.", self._name(at), error, count
                )  # fmt: skip
                continue
            return self._sample(image, target, self._name(at))
        raise DatasetError(
            f"{_MAX_UNREADABLE} images in a row can't be read, up to {self._name(at)}. The data "
            "set is damaged, or its file system gone; unpack or mount it again."
        )

    def __len__(self) -> int:
        return len(self.reader)

    def _name(self, index: int) -> str:
        name = self.reader.filename(index, absolute=True)
        if not name:
            raise ConfigError(
                f"Image {index} of the data set has no file name, by which its token labels could "
                "be found. Take a data set that keeps them, as a folder of images."
            )
        return str(name)


class IterableTokenLabelDataset(_WithLabels, IterableDataset):
    """A ``wds/`` data set whose targets are `TokenLabelSample`; samples' keys are image names.

    Args:
        dataset: the images, and the transform if it has one already.
        labels: their label maps.

    Raises:
        ConfigError: the reader does not tell names; streamed Hugging Face and TensorFlow sets.
    """

    def __init__(self, dataset: IterableImageDataset, labels: LabelStore):
        kind = type(dataset.reader).__name__
        if kind != "ReaderWds":
            raise ConfigError(
                f"Token labels need the name of every image, which timm's {kind} does not pass "
                "on. Take the same set as hfds/ (not streamed), wds/, or a folder of images."
            )
        super().__init__(dataset, labels)

    def __iter__(self) -> Iterator[tuple]:
        reader = self.reader
        if reader.ds is None:
            reader._lazy_init()
        samples = reader.ds
        if reader.is_training or reader.dist_num_replicas > 1:
            samples = samples.with_epoch(reader._num_samples_per_worker())
        for sample in samples:
            target = sample["target"]
            if reader.remap_class:
                target = reader.class_to_idx[target]
            yield self._sample(sample["image"], target, sample["__key__"])

    def __len__(self) -> int:
        return len(self.reader)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order of shards."""
        self.reader.set_epoch(epoch)

    def set_loader_cfg(self, num_workers: int | None = None) -> None:
        """Tell the reader how many workers there will be."""
        self.reader.set_loader_cfg(num_workers=num_workers)


def read_image(dataset: ImageDataset, index: int) -> tuple[Image.Image, Any]:
    """An image, decoded, and its class; raises one of `UNREADABLE`."""
    source, target, *_ = dataset.reader[index]
    with source:
        image = Image.open(source)
        return image.convert(dataset.input_img_mode or image.mode), target


def with_token_labels(
    dataset: Dataset, labels: LabelStore
) -> TokenLabelDataset | IterableTokenLabelDataset:
    """A timm data set with label maps, of the class that fits it."""
    if isinstance(dataset, IterableImageDataset):
        return IterableTokenLabelDataset(dataset, labels)
    return TokenLabelDataset(dataset, labels)
