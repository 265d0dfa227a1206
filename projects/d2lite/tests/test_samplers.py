"""Every index once per pass, on any number of ranks and workers."""

import itertools
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import ToIterableDataset
from detectron2.data.samplers import (
    GroupedBatchSampler,
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm
from hypothesis import given, settings, strategies as st
from torch.utils.data.sampler import SequentialSampler

sizes = st.integers(1, 40)
ranks = st.integers(1, 6)
seeds = st.integers(0, 2**31)


def of_rank(build, rank: int, world_size: int):
    """What ``build`` makes on one rank of several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comm, "get_rank", lambda: rank)
        patch.setattr(comm, "get_world_size", lambda: world_size)
        return build()


def interleaved(build, world_size: int, count: int) -> list[int]:
    """The first ``count`` indices of the common stream, collected from all ranks."""
    per_rank = -(-count // world_size)
    streams = [
        list(itertools.islice(of_rank(build, rank, world_size), per_rank))
        for rank in range(world_size)
    ]
    return list(itertools.chain.from_iterable(zip(*streams, strict=True)))[:count]


@given(sizes, ranks, seeds, st.booleans())
def test_training_passes_are_complete(size, world_size, seed, shuffle):
    def build():
        return TrainingSampler(size, shuffle=shuffle, seed=seed)

    stream = interleaved(build, world_size, 3 * size)
    for start in range(0, 3 * size, size):
        assert sorted(stream[start : start + size]) == list(range(size))
    # The stream doesn't depend on the number of ranks.
    assert stream == interleaved(build, 1, 3 * size)
    if not shuffle:
        assert stream == list(range(size)) * 3


def test_training_order_is_that_of_its_seed():
    generator = torch.Generator().manual_seed(7)
    expected = torch.randperm(10, generator=generator).tolist()
    expected += torch.randperm(10, generator=generator).tolist()
    assert list(itertools.islice(TrainingSampler(10, seed=7), 20)) == expected


def test_training_without_a_seed_is_the_same_every_time():
    sampler = TrainingSampler(50)
    assert list(itertools.islice(sampler, 60)) == list(itertools.islice(sampler, 60))


@pytest.mark.parametrize("size, error", [(1.5, TypeError), ("3", TypeError), (0, ValueError)])
def test_training_size_is_a_positive_int(size, error):
    with pytest.raises(error, match="TrainingSampler"):
        TrainingSampler(size)


@given(sizes, ranks, seeds, seeds, st.floats(0.1, 1), st.booleans())
def test_subset_passes_are_complete(size, world_size, seed, subset_seed, ratio, shuffle):
    used = int(size * ratio)
    if used == 0:
        with pytest.raises(AssertionError):
            RandomSubsetTrainingSampler(size, ratio)
        return

    def build():
        return RandomSubsetTrainingSampler(size, ratio, shuffle, seed, subset_seed)

    stream = interleaved(build, world_size, 2 * used)
    subset = torch.randperm(size, generator=torch.Generator().manual_seed(subset_seed))[:used]
    assert sorted(stream[:used]) == sorted(stream[used:]) == sorted(subset.tolist())
    if not shuffle:
        assert stream[:used] == subset.tolist()


@pytest.mark.parametrize("ratio", [0, -0.5, 1.01])
def test_subset_ratio_is_a_fraction(ratio):
    with pytest.raises(AssertionError):
        RandomSubsetTrainingSampler(10, ratio)


@given(st.lists(st.sampled_from([0.0, 1.0, 1.5, 2.25, 3.0]), min_size=1, max_size=20), ranks, seeds)
def test_repeats_are_rounded_factors(factors, world_size, seed):
    # Passes begin with their only 0.
    factors = torch.tensor([1.0, *factors, 1.0])

    def build():
        return RepeatFactorTrainingSampler(factors, shuffle=False, seed=seed)

    stream = interleaved(build, 1, 200)
    counts = Counter(stream[: stream.index(0, 1)])
    for index, factor in enumerate(factors.tolist()):
        assert int(factor) <= counts[index] <= int(np.ceil(factor))
    assert interleaved(build, world_size, 200) == stream


def test_repeats_reach_their_factors_on_average():
    factors = torch.tensor([1.0, 2.5, 1.25])
    stream = itertools.islice(RepeatFactorTrainingSampler(factors, seed=1), 9500)
    counts = Counter(stream)
    assert counts[1] / counts[0] == pytest.approx(2.5, abs=0.05)
    assert counts[2] / counts[0] == pytest.approx(1.25, abs=0.05)


def test_repeat_factors_of_category_frequency():
    def image(*categories):
        return {"annotations": [{"category_id": c} for c in categories]}

    # Category 0 is on 3 of 4 images, 1 on 1 of 4, 2 on 2 of 4.
    dicts = [image(0, 0), image(0, 1, 2), image(0, 2), image()]
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dicts, 0.5)
    assert factors.dtype == torch.float32
    assert factors.tolist() == pytest.approx([1, 2**0.5, 1, 1])
    plain = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        dicts, 0.5, sqrt=False
    )
    assert plain.tolist() == pytest.approx([1, 2, 1, 1])


@given(sizes, st.integers(1, 60))
def test_inference_covers_everything_once(size, world_size):
    parts = [
        list(of_rank(lambda: InferenceSampler(size), rank, world_size))
        for rank in range(world_size)
    ]
    assert list(itertools.chain.from_iterable(parts)) == list(range(size))
    lengths = [len(x) for x in parts]
    assert max(lengths) - min(lengths) <= 1 and lengths == sorted(lengths, reverse=True)


def test_inference_local_indices():
    assert [InferenceSampler._get_local_indices(10, 4, r) for r in range(4)] == [
        range(0, 3),
        range(3, 6),
        range(6, 8),
        range(8, 10),
    ]
    assert len(InferenceSampler(7)) == 7
    with pytest.raises(AssertionError):
        InferenceSampler(0)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 5))
def test_groups_fill_batches(groups, batch_size):
    sampler = SequentialSampler(range(len(groups)))
    # list() would ask for a length.
    batches = [x for x in GroupedBatchSampler(sampler, groups, batch_size)]  # noqa: C416
    for batch in batches:
        assert len(batch) == batch_size and len({groups[i] for i in batch}) == 1
        assert batch == sorted(batch)
    per_group = Counter(groups)
    assert len(batches) == sum(n // batch_size for n in per_group.values())
    used = list(itertools.chain.from_iterable(batches))
    assert len(used) == len(set(used))


def test_groups_want_a_sampler():
    with pytest.raises(ValueError, match="sampler should be an instance"):
        GroupedBatchSampler([0, 1], [0, 0], 2)
    grouped = GroupedBatchSampler(SequentialSampler(range(2)), [0, 0], 2)
    with pytest.raises(NotImplementedError):
        len(grouped)


@settings(deadline=None)
@given(sizes, ranks, st.integers(1, 4), st.integers(1, 5))
def test_ranks_and_workers_share_every_index_once(size, world_size, workers, chunk):
    def of_worker(rank, worker):
        info = SimpleNamespace(id=worker, num_workers=workers)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("torch.utils.data.get_worker_info", lambda: info)
            sampler = of_rank(lambda: InferenceSampler(size), rank, world_size)
            return list(ToIterableDataset(range(size), sampler, shard_chunk_size=chunk))

    parts = [[of_worker(rank, k) for k in range(workers)] for rank in range(world_size)]
    assert sorted(i for part in parts for found in part for i in found) == list(range(size))
    for rank, part in enumerate(parts):
        # Workers take turns by whole chunks: batches don't depend on their number.
        chunks = [found[i : i + chunk] for found in part for i in range(0, len(found), chunk)]
        local = list(of_rank(lambda: InferenceSampler(size), rank, world_size))
        assert sorted(chunks) == [local[i : i + chunk] for i in range(0, len(local), chunk)]
