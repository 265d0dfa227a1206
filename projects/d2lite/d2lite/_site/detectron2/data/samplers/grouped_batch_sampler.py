"""Batches whose elements are all of one group."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data.sampler import BatchSampler, Sampler

__all__ = ["GroupedBatchSampler"]


class GroupedBatchSampler(BatchSampler):
    """Batches of indices of equal group, as close to the sampler's order as that allows.

    Args:
        sampler: gives the indices.
        group_ids: the group of every index of the data set.
        batch_size: indices per batch; batches that don't fill up are dropped.
    """

    def __init__(self, sampler: Sampler, group_ids, batch_size: int):
        if not isinstance(sampler, Sampler):
            raise ValueError(f"sampler should be an instance of Sampler, but got sampler={sampler}")
        self.sampler, self.batch_size = sampler, batch_size
        self.group_ids = np.asarray(group_ids)
        assert self.group_ids.ndim == 1, self.group_ids.shape
        self.buffer_per_group = {group: [] for group in set(np.unique(self.group_ids))}

    def __iter__(self) -> Iterator[list[int]]:
        for index in self.sampler:
            buffer = self.buffer_per_group[self.group_ids[index]]
            buffer.append(index)
            if len(buffer) == self.batch_size:
                # Emptied before the yield: the generator may never be resumed.
                batch, buffer[:] = buffer[:], []
                yield batch

    def __len__(self) -> int:
        raise NotImplementedError("len() of GroupedBatchSampler is not well-defined.")
