"""A training loader that can be stopped anywhere and goes on as if it had not been."""

import itertools
import logging
import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from detectron2.data import DatasetFromList
from detectron2.data.build import trivial_batch_collator
from detectron2.data.samplers import GroupedBatchSampler, TrainingSampler
from detectron2.utils import comm
from detectron2.utils.serialize import PicklableWrapper
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from lvt_d2.errors import ConfigError, DatasetError
from lvt_d2.randomness import seeded

logger = logging.getLogger(__name__)

_DRAWS_OF_EQUAL_SHAPE = 3  # for a broken image, before any image is good enough
_MOST_DRAWS = 1000


class TrainLoader:
    """Batches without end: Detectron2's samplers, and randomness that belongs to each image.

    Which images make up a batch is settled before anything is read, and an image's augmentations
    draw from generators that are seeded by its place in the stream. So batches depend neither on
    the number of workers nor on how far these have read ahead, and `load_state_dict` goes on after
    the last batch that was taken without reading what came before it.

    Args:
        dataset: dicts; with ``aspect_ratio_grouping`` they have ``width`` and ``height``.
        mapper: from a dict to a model's input; None in its place asks for another image.
        total_batch_size: images of a batch over all processes.
        sampler: order of this process's images; it must give the same order whenever it is made,
            or a resumed training sees another one. None: `TrainingSampler` of a seed of our own.
        aspect_ratio_grouping: wide images with wide ones, all others with their like.
        num_workers: processes that read ahead; 0 reads in this one.

    Raises:
        DatasetError: an image lacks its size, or, in iteration, the mapper refuses all.
    """

    def __init__(
        self,
        dataset: Sequence[dict],
        *,
        mapper: Callable[[dict], dict | None],
        total_batch_size: int,
        sampler: Sampler | None = None,
        aspect_ratio_grouping: bool = True,
        num_workers: int = 0,
    ):
        self.total_batch_size = total_batch_size
        self.num_workers = num_workers
        self._sampler = sampler
        self._groups = _shapes(dataset) if aspect_ratio_grouping else np.zeros(len(dataset), int)
        self._dicts = DatasetFromList(dataset, copy=False)
        self._mapper = mapper
        self._seed = comm.shared_random_seed()
        self._batches_taken = 0

    def __iter__(self) -> Iterator[list[dict]]:
        loader = DataLoader(
            _SeededImages(self._dicts, PicklableWrapper(self._mapper), self._groups, self._seed),
            batch_sampler=_Places(self._batches_of_indices(), self._batches_taken),
            collate_fn=trivial_batch_collator,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            # One of its own: PyTorch would draw a number from the generator of the training.
            generator=torch.Generator().manual_seed(self._seed),
        )
        for batch in loader:
            self._batches_taken += 1
            yield batch

    def _batches_of_indices(self) -> Iterator[list[int]]:
        sampler = self._sampler or TrainingSampler(len(self._dicts), seed=self._seed)
        size = self.total_batch_size // comm.get_world_size()
        if self._groups.any():
            return iter(GroupedBatchSampler(sampler, self._groups, size))
        return iter(BatchSampler(sampler, size, drop_last=True))

    def state_dict(self) -> dict:
        """What it takes to go on after the last batch that was taken; equal on all processes."""
        return {
            "seed": self._seed,
            "batches": self._batches_taken,
            "total_batch_size": self.total_batch_size,
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on where another loader of the same data set was; before the first iteration.

        With another batch size it goes on after as many images, or nearly.
        """
        self._seed = state["seed"]
        images = state["batches"] * state["total_batch_size"]
        self._batches_taken = images // self.total_batch_size
        if self.total_batch_size != state["total_batch_size"]:
            logger.warning(
                "dataloader.train.total_batch_size was %d and is %d now: the training goes on "
                "after %d images, with other batches",
                state["total_batch_size"],
                self.total_batch_size,
                images,
            )


def _shapes(dataset: Sequence[dict]) -> np.ndarray:
    """1 for images that are wider than high, 0 for others."""
    try:
        return np.array([image["width"] > image["height"] for image in dataset], dtype=int)
    except KeyError as error:
        raise ConfigError(
            f"dataloader.train.aspect_ratio_grouping needs the {error.args[0]} of every image, "
            "which the dicts of this data set lack; add it to them, or set it to False"
        ) from error


class _Places:
    """Batches of (place in the stream, index) from batch number ``start`` on."""

    def __init__(self, batches: Iterator[list[int]], start: int):
        self.batches, self.start = batches, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for number, batch in enumerate(itertools.islice(self.batches, self.start, None)):
            first = (self.start + number) * len(batch)
            yield list(enumerate(batch, first))


class _SeededImages(Dataset):
    """Mapped images, by their place in the stream and their index in the data set."""

    def __init__(self, dicts: DatasetFromList, mapper: Callable, groups: np.ndarray, seed: int):
        self.dicts, self.mapper, self.groups, self.seed = dicts, mapper, groups, seed
        self.rank = comm.get_rank()

    def __getitem__(self, key: tuple[int, int]) -> dict:
        place, index = key
        with seeded(self.seed, self.rank, place):
            for draw in range(_MOST_DRAWS):
                mapped = self.mapper(self.dicts[index])
                if mapped is not None:
                    return mapped
                index = self._another(index, draw < _DRAWS_OF_EQUAL_SHAPE)
        raise DatasetError(
            f"the mapper has refused {_MOST_DRAWS} training images in a row (it returned None for "
            "them); look at what it refuses"
        )

    def _another(self, index: int, of_equal_shape: bool) -> int:
        if not of_equal_shape:
            return random.randrange(len(self.groups))
        return int(random.choice(np.flatnonzero(self.groups == self.groups[index])))
