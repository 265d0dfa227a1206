"""Single images: which one comes when, its random numbers, and what if it can't be read.

Everything random about an image follows from the seed, the epoch and the image's index alone, so
it depends neither on the number of processes and workers nor on where a training was resumed.
"""

import hashlib
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset, Sampler

from lvt_d2.data.counter import SharedCounter
from lvt_d2.errors import DatasetError
from lvt_imagenet.token_labels import TokenLabelDataset, TokenLabels, TokenLabelSample

logger = logging.getLogger(__name__)

_UNREADABLE = (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError)
_MOST_IN_A_ROW = 20  # unreadable images, before the whole set is taken for broken


def seed_of(*numbers: int) -> int:
    """A 63-bit seed that follows from some whole numbers."""
    words = " ".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little") >> 1


def seed_cpu(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators of the CPU."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


def seed_all(seed: int, device: torch.device) -> None:
    """Seed these, and that of the device."""
    seed_cpu(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


class Samples(Dataset):
    """Images of a timm data set by ``(index, seed)``, ready to be collated.

    An image that can't be read is named in the log and counted. In training the next one takes
    its place, so that batches keep their size; in evaluation it is left out.

    Args:
        dataset: a map-style data set of timm or torchvision; its own transform is not used.
        transform: of a PIL image.
        num_classes: targets must be below it.
        mode: of the image: RGB, or L for grey.
        replace: in training.

    Attributes:
        unreadable: how many were met in all workers of this process.

    Returns (by index):
        ``(image, target, index, seed)``, or None for an image to be left out.

    Raises:
        DatasetError: a target is no class; too many images in a row can't be read.
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: Callable,
        num_classes: int,
        mode: str = "RGB",
        replace: bool = True,
    ):
        self.dataset = dataset
        self.transform = transform
        self.num_classes = num_classes
        self.mode = mode
        self.replace = replace
        self.unreadable = SharedCounter()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: tuple[int, int]) -> tuple | None:
        index, seed = item
        for step in range(_MOST_IN_A_ROW if self.replace else 1):
            place = (index + step) % len(self)
            try:
                image, target = self._read(place)
            except _UNREADABLE as error:
                self._tell(place, error)
                continue
            seed_cpu(seed)
            return self.transform(image), self._checked(target, place), place, seed
        if self.replace:
            raise DatasetError(
                f"{_MOST_IN_A_ROW} images in a row can't be read, {self.name(index)} and those "
                "behind it; the log says why. Is the data set complete, and its disk there?"
            )
        return None

    def name(self, index: int) -> str:
        """The image in words: its file name where it has one."""
        try:
            return str(self.dataset.filename(index, absolute=True))
        except (AttributeError, AssertionError, KeyError, TypeError):
            return f"image {index}"

    def _read(self, index: int) -> tuple[Image.Image, Any]:
        reader = getattr(self.dataset, "reader", None)
        if reader is None:  # torchvision's data sets
            image, target = self.dataset[index]
            return image.convert(self.mode), target
        file, target = reader[index]
        with file:
            return Image.open(file).convert(self.mode), target

    def _tell(self, index: int, error: Exception) -> None:
        count = self.unreadable.increment()
        what = "another image takes its place" if self.replace else "it is left out"
        reason = " ".join(str(error).split()) or type(error).__name__
        logger.warning(
            "%s can't be read (%s); %s. Unreadable so far: %d",
            self.name(index),
            reason,
            what,
            count,
        )

    def _checked(self, target: Any, index: int) -> int:
        if not 0 <= int(target) < self.num_classes:
            raise DatasetError(
                f"{self.name(index)} is of class {target}, but the model has {self.num_classes} "
                f"classes, from 0 to {self.num_classes - 1}. Set num_classes (--num-classes), or "
                "name the classes in order with class_map"
            )
        return int(target)


class SeededItems(Dataset):
    """Samples of another data set by ``(index, seed)``, with both appended.

    Args:
        dataset: transforms and checks its samples by itself, and counts the ``unreadable`` ones.
    """

    def __init__(self, dataset: TokenLabelDataset):
        self.dataset = dataset
        self.unreadable = dataset.unreadable

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: tuple[int, int]) -> tuple:
        index, seed = item
        seed_cpu(seed)
        return *self.dataset[index], index, seed


class TrainBatches(Sampler):
    """Batches of this process, as ``(index, seed)``, out of one order of all images.

    Batch i of all processes together are places i*world*size to (i+1)*world*size of an order that
    follows from seed and epoch; each process has its part of it. What does not fill an update is
    dropped.

    Args:
        length: images.
        batch_size: of one process.
        rank: of this process.
        world: number of processes.
        seed: of the training.
        group: batches of an update.
    """

    def __init__(
        self, length: int, batch_size: int, rank: int, world: int, seed: int, group: int = 1
    ):
        self.updates = length // (batch_size * world * group)
        self.length = length
        self.group = group
        self.batch_size = batch_size
        self.rank = rank
        self.world = world
        self.seed = seed
        self.start(0)

    def start(self, epoch: int, batch: int = 0) -> None:
        """Say which epoch comes next, and at which of its batches it begins."""
        self.epoch, self.first = epoch, batch

    def __len__(self) -> int:
        return self.updates * self.group

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        for batch in range(self.first, len(self)):
            begin = (batch * self.world + self.rank) * self.batch_size
            yield [
                (index, seed_of(self.seed, self.epoch, index))
                for index in order[begin : begin + self.batch_size]
            ]


class EvalBatches(Sampler):
    """Batches of this process that make up every image once over all processes.

    Args:
        length: images.
        batch_size: of one process.
        rank: of this process.
        world: number of processes.
    """

    def __init__(self, length: int, batch_size: int, rank: int = 0, world: int = 1):
        self.indices = range(rank, length, world)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for begin in range(0, len(self.indices), self.batch_size):
            yield [(index, index) for index in self.indices[begin : begin + self.batch_size]]


def collate(samples: Sequence[tuple | None]) -> tuple[torch.Tensor, ...] | None:
    """A batch: images (B, C, H, W) uint8, targets (B,) or `TokenLabels`, indices (B,), seeds (B,).

    Streams give neither indices nor seeds: -1, and random ones. None where no image of the batch
    could be read.
    """
    readable = [sample for sample in samples if sample is not None]
    if not readable:
        return None
    images, targets, *numbers = zip(*readable, strict=True)
    if not numbers:
        indices = torch.full((len(images),), -1)
        seeds = torch.randint(2**62, (len(images),))
    else:
        indices, seeds = (torch.tensor(values) for values in numbers)
    if isinstance(targets[0], TokenLabelSample):
        targets = TokenLabels.stack(targets)
    else:
        targets = torch.tensor([int(target) for target in targets])
    return torch.stack([torch.as_tensor(image) for image in images]), targets, indices, seeds
