"""Data sets made of other data sets: mapped, serialized, turned into streams, grouped."""

import copy
import itertools
import logging
import pickle
import random
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch.utils import data
from torch.utils.data.sampler import Sampler

from detectron2.utils.serialize import PicklableWrapper

__all__ = ["MapDataset", "DatasetFromList", "AspectRatioGroupedDataset", "ToIterableDataset"]

logger = logging.getLogger(__name__)


def _shard_iterator_dataloader_worker(iterable: Iterable, chunk_size: int = 1) -> Iterator:
    """The part of a stream that belongs to this DataLoader worker, in chunks taken by turns."""
    worker = data.get_worker_info()
    if worker is None:
        return iter(iterable)
    turns, me = worker.num_workers, worker.id
    return (item for i, item in enumerate(iterable) if i // chunk_size % turns == me)


class _MapIterableDataset(data.IterableDataset):
    """A stream through a function; elements that it maps to None are left out."""

    def __init__(self, dataset: Iterable, map_func: Callable):
        # A wrapped lambda survives the pickling of spawned workers.
        self._dataset, self._map_func = dataset, PicklableWrapper(map_func)

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator:
        return (x for x in map(self._map_func, self._dataset) if x is not None)


class MapDataset(data.Dataset):
    """Apply a function to the elements of a data set.

    Where the function returns None, another element is drawn at random in its place, from
    those not yet known to fail. For an ``IterableDataset`` such elements are skipped.

    Args:
        dataset: a Dataset with ``__getitem__`` or an IterableDataset.
        map_func: takes an element, returns the mapped one or None.
    """

    def __new__(cls, dataset, map_func):
        if isinstance(dataset, data.IterableDataset):
            return _MapIterableDataset(dataset, map_func)
        return super().__new__(cls)

    def __getnewargs__(self):
        return self._dataset, self._map_func

    def __init__(self, dataset, map_func):
        self._dataset, self._map_func = dataset, PicklableWrapper(map_func)
        self._rng = random.Random(42)
        self._fallback_candidates = set(range(len(dataset)))

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> object:
        index = int(idx)
        for retries in itertools.count(1):
            if (mapped := self._map_func(self._dataset[index])) is not None:
                self._fallback_candidates.add(index)
                return mapped
            self._fallback_candidates.discard(index)
            index = self._rng.sample(sorted(self._fallback_candidates), k=1)[0]
            if retries >= 3:
                logger.warning(f"Failed to apply `_map_func` for idx: {idx}, retries: {retries}")


class _TorchSerializedList:
    """A list as one byte tensor, so that worker processes share its memory.

    Objects of Python would be copied page by page as soon as a forked worker counts their
    references; a tensor is also sent to spawned workers through shared memory.
    """

    def __init__(self, lst: list):
        chunks = [np.frombuffer(pickle.dumps(x, protocol=-1), dtype=np.uint8) for x in lst]
        self._addr = torch.from_numpy(np.cumsum([len(x) for x in chunks], dtype=np.int64))
        self._lst = torch.from_numpy(np.concatenate(chunks or [np.empty(0, dtype=np.uint8)]))
        logger.info(f"{len(lst)} serialized elements take {len(self._lst) / 1024**2:.2f} MiB")

    def __len__(self) -> int:
        return len(self._addr)

    def __getitem__(self, idx: int) -> object:
        position = range(len(self))[idx]
        start = self._addr[position - 1].item() if position else 0
        return pickle.loads(memoryview(self._lst[start : self._addr[position]].numpy()))


class DatasetFromList(data.Dataset):
    """A list as a Dataset.

    Args:
        lst: the elements.
        copy: give out deep copies, so that what a caller does to one stays with the caller.
        serialize: keep the elements as bytes in memory that workers share (each access then
            makes a new object anyway); a callable is used as the serializer of the list.
    """

    def __init__(self, lst: list, copy: bool = True, serialize: bool | Callable = True):
        if not (isinstance(serialize, bool) or callable(serialize)):
            raise TypeError(f"Unsupported type for argument `serialize`: {serialize}")
        self._copy, self._serialize = copy, bool(serialize)
        serializer = serialize if callable(serialize) else _TorchSerializedList
        self._lst = serializer(lst) if self._serialize else lst

    def __len__(self) -> int:
        return len(self._lst)

    def __getitem__(self, idx: int) -> object:
        element = self._lst[idx]
        return copy.deepcopy(element) if self._copy and not self._serialize else element


class ToIterableDataset(data.IterableDataset):
    """A Dataset as the stream that a sampler draws from it.

    Args:
        dataset: a Dataset with ``__getitem__``.
        sampler: gives the indices; its order is kept.
        shard_sampler: let each of a DataLoader's workers take its own part of the indices. Without
            it every worker yields all of them, which is right if the sampler itself shards.
        shard_chunk_size: number of indices in a row for one worker; the batch size makes
            batches independent of the number of workers.
    """

    def __init__(self, dataset, sampler: Sampler, shard_sampler=True, shard_chunk_size=1):
        assert not isinstance(dataset, data.IterableDataset), dataset
        assert isinstance(sampler, Sampler), sampler
        self.dataset, self.sampler = dataset, sampler
        self.shard_sampler, self.shard_chunk_size = shard_sampler, shard_chunk_size

    def __iter__(self) -> Iterator:
        indices = self.sampler
        if self.shard_sampler:
            indices = _shard_iterator_dataloader_worker(indices, self.shard_chunk_size)
        return (self.dataset[index] for index in indices)

    def __len__(self) -> int:
        return len(self.sampler)


class AspectRatioGroupedDataset(data.IterableDataset):
    """Batches of images that are all wider than high, or all not, to save padding.

    Args:
        dataset: yields dicts with "width" and "height", pixels.
        batch_size: images per batch; what does not fill a batch waits for the next iteration.
    """

    def __init__(self, dataset: Iterable[dict], batch_size: int):
        self.dataset, self.batch_size = dataset, batch_size
        self._buckets = [[], []]

    def __iter__(self) -> Iterator[list[dict]]:
        for element in self.dataset:
            kind = 0 if element["width"] > element["height"] else 1
            self._buckets[kind].append(element)
            if len(self._buckets[kind]) == self.batch_size:
                # Emptied before the yield: the generator may never be resumed.
                batch, self._buckets[kind] = self._buckets[kind], []
                yield batch
