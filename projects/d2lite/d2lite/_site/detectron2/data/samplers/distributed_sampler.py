"""Endless index streams for training and one pass for inference, each split among the ranks."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator

import torch
from torch.utils.data.sampler import Sampler

from detectron2.utils import comm

__all__ = ["InferenceSampler", "RandomSubsetTrainingSampler", "RepeatFactorTrainingSampler"]
__all__ += ["TrainingSampler"]


class _InfiniteSampler(Sampler):
    """Rank ``r`` of ``n`` takes every ``n``-th index, from the ``r``-th, of one endless stream.

    All ranks walk through the same stream, so its seed has to be common to them.
    """

    def __init__(self, shuffle: bool, seed: int | None):
        self._shuffle = shuffle
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        yield from itertools.islice(self._infinite_indices(), self._rank, None, self._world_size)

    def _infinite_indices(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            indices = self._epoch(generator)
            if self._shuffle:
                indices = indices[torch.randperm(len(indices), generator=generator)]
            yield from indices.tolist()


class TrainingSampler(_InfiniteSampler):
    """Endless passes over all indices, each in a new random order if shuffled.

    Args:
        size: elements of the data set.
        shuffle: random order.
        seed: of the order, the same on all ranks; None draws one that they share.
    """

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None):
        if not isinstance(size, int):
            raise TypeError(f"TrainingSampler(size=) expects an int. Got type {type(size)}.")
        if size <= 0:
            raise ValueError(f"TrainingSampler(size=) expects a positive int. Got {size}.")
        self._size = size
        super().__init__(shuffle, seed)

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        return torch.arange(self._size)


class RandomSubsetTrainingSampler(TrainingSampler):
    """As ``TrainingSampler``, on a random part of the indices that never changes.

    Args:
        size: elements of the data set.
        subset_ratio: part that is used, 0 < ratio <= 1.
        shuffle: random order.
        seed_shuffle: of the order.
        seed_subset: of the choice. Both are the same on all ranks; None draws a shared one.
    """

    def __init__(self, size, subset_ratio, shuffle=True, seed_shuffle=None, seed_subset=None):
        super().__init__(size=size, shuffle=shuffle, seed=seed_shuffle)
        assert 0.0 < subset_ratio <= 1.0, subset_ratio
        self._size_subset = int(size * subset_ratio)
        assert self._size_subset > 0, (size, subset_ratio)
        self._seed_subset = int(comm.shared_random_seed() if seed_subset is None else seed_subset)
        generator = torch.Generator().manual_seed(self._seed_subset)
        self._indexes_subset = torch.randperm(size, generator=generator)[: self._size_subset]

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        return self._indexes_subset


class RepeatFactorTrainingSampler(_InfiniteSampler):
    """Endless passes in which index ``i`` occurs ``repeat_factors[i]`` times on average.

    Fractions are rounded up or down at random in every pass (LVIS paper, arXiv 1908.03195).

    Args:
        repeat_factors: float tensor, one factor per element.
        shuffle: random order.
        seed: of order and rounding, the same on all ranks; None draws one that they share.
    """

    def __init__(self, repeat_factors: torch.Tensor, *, shuffle=True, seed: int | None = None):
        super().__init__(shuffle, seed)
        self._int_part = torch.trunc(repeat_factors)
        self._frac_part = repeat_factors - self._int_part

    @staticmethod
    def repeat_factors_from_category_frequency(
        dataset_dicts: list[dict], repeat_thresh: float, sqrt: bool = True
    ) -> torch.Tensor:
        """Factors that repeat images with rare categories.

        A category on a fraction ``f`` of the images gets ``max(1, sqrt(repeat_thresh / f))`` (or
        without the root), an image the largest factor of its categories.

        Args:
            dataset_dicts: in Detectron2's format, with "annotations".
            repeat_thresh: fraction below which a category counts as rare.
            sqrt: take the root.

        Returns:
            float tensor, one factor per image.
        """
        categories = [{ann["category_id"] for ann in x["annotations"]} for x in dataset_dicts]
        images_with = Counter(itertools.chain.from_iterable(categories))
        ratios = {c: repeat_thresh / (n / len(dataset_dicts)) for c, n in images_with.items()}
        factors = {c: max(1.0, math.sqrt(x) if sqrt else x) for c, x in ratios.items()}
        of_images = [max((factors[c] for c in x), default=1.0) for x in categories]
        return torch.tensor(of_images, dtype=torch.float32)

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        round_up = torch.rand(len(self._frac_part), generator=generator) < self._frac_part
        repeats = self._int_part.to(torch.int64) + round_up
        return torch.repeat_interleave(torch.arange(len(repeats)), repeats)


class InferenceSampler(Sampler):
    """One pass over all indices: each rank a contiguous piece, sizes differing by at most one.

    Every index occurs exactly once, whatever the number of ranks.

    Args:
        size: elements of the data set.
    """

    def __init__(self, size: int):
        assert size > 0, size
        self._size = size
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()
        self._local_indices = self._get_local_indices(size, self._world_size, self._rank)

    @staticmethod
    def _get_local_indices(total_size: int, world_size: int, rank: int) -> range:
        share, rest = divmod(total_size, world_size)
        begin = rank * share + min(rank, rest)
        return range(begin, begin + share + (rank < rest))

    def __iter__(self) -> Iterator[int]:
        yield from self._local_indices

    def __len__(self) -> int:
        return len(self._local_indices)
