"""Which image comes when, and with which random numbers."""

import random

import numpy as np
import pytest
import torch
from lvt_imagenet.samples import (
    EvalBatches,
    Samples,
    TrainBatches,
    collate,
    seed_all,
    seed_cpu,
    seed_of,
)
from PIL import Image


def of_all_processes(batch_size, world, epoch=0, batch=0, group=1, length=50, seed=3):
    """Batches of every process: world lists of batches."""
    result = []
    for rank in range(world):
        batches = TrainBatches(length, batch_size, rank, world, seed, group)
        batches.start(epoch, batch)
        result.append(list(batches))
    return result


def test_processes_share_the_batches_of_one():
    (alone,) = of_all_processes(8, 1)
    first, second = of_all_processes(4, 2)
    assert alone == [a + b for a, b in zip(first, second, strict=True)]
    assert len(alone) == 6 and len({index for batch in alone for index, _ in batch}) == 48


def test_accumulated_batches_are_one_of_their_size():
    (alone,) = of_all_processes(12, 1)
    (parts,) = of_all_processes(4, 1, group=3)
    assert len(parts) == 12
    assert alone == [sum(parts[i : i + 3], []) for i in range(0, len(parts), 3)]
    first, second = of_all_processes(3, 2, group=2)
    assert alone == [
        first[i] + second[i] + first[i + 1] + second[i + 1] for i in range(0, len(first), 2)
    ]


def test_incomplete_update_is_dropped():
    assert len(of_all_processes(4, 2, group=3, length=50)[0]) == 6  # 2 updates of 24 images


def test_order_and_seeds_follow_from_seed_and_epoch():
    (one,), (again,) = of_all_processes(8, 1), of_all_processes(8, 1)
    (later,), (other,) = of_all_processes(8, 1, epoch=1), of_all_processes(8, 1, seed=4)
    assert one == again and one != later and one != other
    seeds = dict(pair for batch in one for pair in batch)
    assert all(seeds[i] != s for batch in later for i, s in batch if i in seeds)


def test_begins_within_an_epoch():
    (whole,), (rest,) = of_all_processes(8, 1), of_all_processes(8, 1, batch=4)
    assert rest == whole[4:]


def test_evaluation_takes_every_image_once():
    parts = [list(EvalBatches(11, 3, rank, 2)) for rank in range(2)]
    assert [len(part) for part in parts] == [len(EvalBatches(11, 3, rank, 2)) for rank in range(2)]
    indices = [index for part in parts for batch in part for index, _ in batch]
    assert sorted(indices) == list(range(11))
    assert list(EvalBatches(2, 3, 2, 3)) == []


def test_seeds_are_of_63_bits_and_of_all_numbers():
    seeds = {seed_of(a, b, c) for a in range(3) for b in range(3) for c in range(3)}
    assert len(seeds) == 27 and all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(1, 23) != seed_of(12, 3)


@pytest.mark.parametrize("seed_it", [seed_cpu, lambda seed: seed_all(seed, torch.device("cpu"))])
def test_all_generators_are_seeded(seed_it):
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    seed_it(seed_of(1))
    drawn = draw()
    assert draw() != drawn
    seed_it(seed_of(1))
    assert draw() == drawn


class Pictures(torch.utils.data.Dataset):
    """Like a set of torchvision: a picture and a class by index."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 2:
            raise OSError("broken")
        return Image.new("L", (5, 4), 60 * index), index


def with_noise(image):
    return torch.as_tensor(np.array(image)).permute(2, 0, 1), torch.rand(1).item()


def test_sample_depends_on_its_seed_alone():
    samples = Samples(Pictures(), with_noise, 4)
    (picture, noise), target, index, seed = samples[1, 5]
    assert picture.shape == (3, 4, 5) and (target, index, seed) == (1, 1, 5)
    assert samples[1, 5][0][1] == noise and samples[1, 6][0][1] != noise


def test_unreadable_image_gives_way_to_the_next_one(caplog):
    samples = Samples(Pictures(), with_noise, 4)
    with caplog.at_level("WARNING"):
        assert samples[2, 5][1:] == (3, 3, 5)
    assert samples.unreadable.value == 1
    assert "image 2 can't be read (broken); another image takes its place" in caplog.text
    assert samples[2, 5][0][1] == samples[3, 5][0][1]


def test_unreadable_image_is_left_out_of_an_evaluation(caplog):
    samples = Samples(Pictures(), lambda image: np.zeros((3, 2, 2), np.uint8), 4, replace=False)
    with caplog.at_level("WARNING"):
        images, targets, indices, seeds = collate([samples[index, index] for index in range(4)])
    assert targets.tolist() == indices.tolist() == seeds.tolist() == [0, 1, 3]
    assert images.shape == (3, 3, 2, 2) and images.dtype == torch.uint8
    assert "it is left out" in caplog.text and samples.unreadable.value == 1
    assert collate([None, None]) is None


def test_streams_get_random_seeds_and_no_indices():
    picture = np.zeros((3, 2, 2), np.uint8)
    torch.manual_seed(0)
    _, targets, indices, seeds = collate([(picture, 1), (picture, np.int64(0))])
    assert targets.tolist() == [1, 0] and indices.tolist() == [-1, -1]
    assert len(set(seeds.tolist())) == 2
