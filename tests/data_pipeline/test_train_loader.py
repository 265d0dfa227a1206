"""Order, contents and randomness of training batches, from the start and from the middle."""

import itertools
import random

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler

from lvt_d2.data.train_loader import TrainLoader
from lvt_d2.errors import ConfigError, DatasetError

DICTS = [
    {"image_id": i, "width": 40 + 10 * (i % 3), "height": 50, "file_name": f"{i}.jpg"}
    for i in range(11)
]


def jitter(image):
    """As a mapper with augmentations: draws from all three generators."""
    return {**image, "drawn": (random.random(), np.random.rand(), torch.rand(1).item())}


def skip_thirds(image):
    return None if image["image_id"] % 3 == 0 else jitter(image)


def refuse(image):
    return None


def loader(mapper=jitter, total_batch_size=3, **options):
    np.random.seed(5)  # decides the seed of the order, as train.seed does
    return TrainLoader(DICTS, mapper=mapper, total_batch_size=total_batch_size, **options)


def batches(source, count):
    return list(itertools.islice(source, count))


@pytest.mark.parametrize("grouping", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mapper", [jitter, skip_thirds])
def test_goes_on_as_if_it_had_not_been_stopped(grouping, workers, mapper):
    options = {"aspect_ratio_grouping": grouping, "mapper": mapper}
    straight = batches(loader(**options), 12)
    first = loader(**options, num_workers=workers)
    assert batches(first, 5) == straight[:5], "whatever the number of workers"
    np.random.seed(77)
    resumed = TrainLoader(DICTS, total_batch_size=3, num_workers=workers, **options)
    resumed.load_state_dict(first.state_dict())
    assert batches(resumed, 7) == straight[5:]
    assert resumed.state_dict() == {**first.state_dict(), "batches": 12}


@pytest.mark.parametrize("grouping", [False, True])
def test_order_is_detectron2s(grouping):
    ours = loader(aspect_ratio_grouping=grouping)
    theirs = build_detection_train_loader(
        DICTS,
        mapper=lambda image: image,
        sampler=TrainingSampler(len(DICTS), seed=ours.state_dict()["seed"]),
        total_batch_size=3,
        aspect_ratio_grouping=grouping,
    )
    pairs = zip(batches(ours, 20), batches(theirs, 20), strict=True)
    for mine, yours in pairs:
        assert [image["image_id"] for image in mine] == [image["image_id"] for image in yours]


def test_shapes_are_not_mixed():
    for batch in batches(loader(), 30):
        assert len({image["width"] > image["height"] for image in batch}) == 1
    assert any(
        len({image["width"] > image["height"] for image in batch}) == 2
        for batch in batches(loader(aspect_ratio_grouping=False), 30)
    )


def test_every_place_draws_its_own_numbers():
    drawn = [image["drawn"] for batch in batches(loader(), 22) for image in batch]
    assert len(set(drawn)) == len(drawn)
    again = [image["drawn"] for batch in batches(loader(), 22) for image in batch]
    assert drawn == again


@pytest.mark.parametrize("workers", [0, 1])
def test_the_trainings_own_randomness_is_left_alone(workers):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    source = loader(num_workers=workers)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    batches(source, 3)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


def test_images_before_the_start_are_not_read():
    read = []

    def record(image):
        read.append(image["image_id"])
        return image

    first = loader(mapper=record)
    batches(first, 50)
    read.clear()
    resumed = loader(mapper=record)
    resumed.load_state_dict(first.state_dict())
    batches(resumed, 1)
    assert len(read) == 3


def test_replacements_have_the_shape_of_what_they_replace():
    for batch in batches(loader(mapper=skip_thirds), 30):
        assert all(image["image_id"] % 3 for image in batch)
    with pytest.raises(DatasetError, match="refused 1000 training images"):
        batches(loader(mapper=refuse), 1)


def test_samplers_of_the_users():
    factors = torch.tensor([1.0 + (i == 4) for i in range(11)])

    def make():
        return loader(sampler=RepeatFactorTrainingSampler(factors, seed=3))

    straight, first, resumed = batches(make(), 9), make(), make()
    assert batches(first, 4) == straight[:4]
    resumed.load_state_dict(first.state_dict())
    assert batches(resumed, 5) == straight[4:]


def test_another_batch_size(caplog):
    first = loader(aspect_ratio_grouping=False)
    seen = batches(first, 4)
    resumed = loader(aspect_ratio_grouping=False, total_batch_size=4)
    resumed.load_state_dict(first.state_dict())
    assert resumed.state_dict()["batches"] == 3 and "after 12 images" in caplog.text
    order = [image["image_id"] for batch in seen + batches(first, 1) for image in batch]
    straight = batches(loader(aspect_ratio_grouping=False, total_batch_size=4), 4)
    assert [image["image_id"] for image in straight[3]][:3] == order[12:]
    assert batches(resumed, 1) == straight[3:]


def test_two_processes_take_what_one_takes(monkeypatch):
    options = {"aspect_ratio_grouping": False, "total_batch_size": 4}
    single = loader(**options)
    one = [image["image_id"] for batch in batches(single, 5) for image in batch]
    seed = single.state_dict()["seed"]
    monkeypatch.setattr("detectron2.utils.comm.shared_random_seed", lambda: seed)
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        parts.append([image for batch in batches(loader(**options), 5) for image in batch])
    ids = [[image["image_id"] for image in part] for part in parts]
    assert [i for pair in zip(*ids, strict=True) for i in pair] == one
    drawn = [image["drawn"] for part in parts for image in part]
    assert len(set(drawn)) == len(drawn), "processes augment differently"


def test_dicts_without_sizes():
    images = [{"file_name": "a"}, {"file_name": "b"}]
    with pytest.raises(ConfigError, match="aspect_ratio_grouping needs the width"):
        TrainLoader(images, mapper=jitter, total_batch_size=1)
    source = TrainLoader(images, mapper=jitter, total_batch_size=1, aspect_ratio_grouping=False)
    assert len(batches(source, 3)) == 3
