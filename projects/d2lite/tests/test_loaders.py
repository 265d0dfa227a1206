"""Data sets of data sets, and loaders: all elements, once, whatever the workers and ranks."""

import itertools
import logging
import operator
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import (
    AspectRatioGroupedDataset,
    DatasetCatalog,
    DatasetFromList,
    MapDataset,
    MetadataCatalog,
    ToIterableDataset,
    build as build_module,
    build_batch_data_loader,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
    print_instances_class_histogram,
)
from detectron2.data.samplers import (
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.structures import BoxMode
from detectron2.utils import comm
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset
from torch.utils.data.sampler import SequentialSampler


class Counting(IterableDataset):
    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __iter__(self):
        return iter(range(self.size))


def identity(x):
    return x


# ---- data sets


def test_map_dataset():
    mapped = MapDataset([1, 2, 3], lambda x: x * 10)
    assert isinstance(mapped, Dataset) and len(mapped) == 3
    assert [mapped[i] for i in range(3)] == [10, 20, 30]
    assert pickle.loads(pickle.dumps(mapped))[1] == 20


def test_map_dataset_falls_back(caplog):
    mapped = MapDataset(list(range(10)), lambda x: x if x >= 8 else None)
    with caplog.at_level(logging.WARNING):
        assert [mapped[i] in (8, 9) for i in range(8)] == [True] * 8
    assert "Failed to apply `_map_func` for idx: " in caplog.text
    assert mapped[8] == 8 and mapped[9] == 9
    with pytest.raises(ValueError, match="larger than population"):
        MapDataset([1, 2, 3, 4], lambda x: None)[0]


def test_map_dataset_forgives_a_recovered_element():
    broken = {0}
    mapped = MapDataset([0, 1], lambda x: None if x in broken else x)
    assert mapped[0] == 1
    broken.clear()
    assert mapped[0] == 0 and mapped._fallback_candidates == {0, 1}


def test_map_iterable_dataset_skips():
    mapped = MapDataset(Counting(6), lambda x: x if x % 2 else None)
    assert isinstance(mapped, IterableDataset) and len(mapped) == 6
    assert list(mapped) == [1, 3, 5] == list(mapped)


@pytest.mark.parametrize("serialize", [True, False])
@pytest.mark.parametrize("copy", [True, False])
def test_dataset_from_list(serialize, copy):
    elements = [{"a": [i]} for i in range(5)]
    dataset = DatasetFromList(elements, copy=copy, serialize=serialize)
    assert len(dataset) == 5 and dataset[3] == {"a": [3]} and dataset[-1] == {"a": [4]}
    dataset[0]["a"].append(1)
    assert (elements[0]["a"] == [0]) == (copy or serialize)
    assert list(DatasetFromList(elements, serialize=serialize)) == elements
    with pytest.raises(IndexError):
        dataset[5]
    assert len(DatasetFromList([], copy=copy, serialize=serialize)) == 0


def test_dataset_from_list_serializers():
    calls = []

    def serializer(lst):
        calls.append(lst)
        return tuple(lst)

    assert DatasetFromList([1, 2], serialize=serializer)[1] == 2
    assert calls == [[1, 2]]
    with pytest.raises(TypeError, match="Unsupported type"):
        DatasetFromList([1], serialize="yes")


def test_to_iterable_dataset():
    stream = ToIterableDataset([10, 11, 12], SequentialSampler([0, 1, 2]))
    assert list(stream) == [10, 11, 12] and len(stream) == 3
    with pytest.raises(AssertionError):
        ToIterableDataset(Counting(3), SequentialSampler([0]))
    with pytest.raises(AssertionError):
        ToIterableDataset([1], [0])


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("chunk", [1, 2])
def test_workers_share_the_sampler(workers, chunk):
    stream = ToIterableDataset(range(11), SequentialSampler(range(11)), shard_chunk_size=chunk)
    out = [int(x) for x in DataLoader(stream, batch_size=None, num_workers=workers)]
    assert sorted(out) == list(range(11))
    whole = ToIterableDataset(range(4), SequentialSampler(range(4)), shard_sampler=False)
    out = [int(x) for x in DataLoader(whole, batch_size=None, num_workers=workers)]
    assert sorted(out) == sorted(list(range(4)) * max(workers, 1))


def test_aspect_ratio_groups():
    sizes = [(3, 2), (2, 3), (2, 2), (5, 1), (9, 8), (1, 1)]
    elements = [{"width": w, "height": h, "i": i} for i, (w, h) in enumerate(sizes)]
    grouped = AspectRatioGroupedDataset(elements, 2)
    assert [[x["i"] for x in batch] for batch in grouped] == [[1, 2], [0, 3]]
    # What was left over begins the next iteration's batches.
    assert [[x["i"] for x in batch] for batch in grouped] == [[4, 0], [5, 1], [3, 4], [2, 5]]


# ---- lists


@pytest.fixture
def registered():
    names = []

    def register(entries, **metadata):
        name = f"test_loaders_{len(names)}"
        names.append(name)
        DatasetCatalog.register(name, lambda: entries)
        MetadataCatalog.get(name).set(**metadata)
        return name

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def entry(image_id, *categories, crowd=0, **more):
    annotations = [
        {"category_id": c, "iscrowd": crowd, "bbox": [0.0, 0, 4, 4], "bbox_mode": BoxMode.XYXY_ABS}
        for c in categories
    ]
    return {"image_id": image_id, "annotations": annotations, "width": 8, "height": 6} | more


def test_dataset_dicts(registered):
    a = registered([entry(0, 1), entry(1), entry(2, 1, crowd=1)], thing_classes=["x", "y"])
    b = registered([entry(3, 0)], thing_classes=["x", "y"])
    assert [x["image_id"] for x in get_detection_dataset_dicts(a)] == [0]
    assert [x["image_id"] for x in get_detection_dataset_dicts([a, b])] == [0, 3]
    kept = get_detection_dataset_dicts([a, b], filter_empty=False)
    assert [x["image_id"] for x in kept] == [0, 1, 2, 3]
    with pytest.raises(AssertionError):
        get_detection_dataset_dicts([])
    with pytest.raises(AssertionError, match="is empty"):
        get_detection_dataset_dicts(registered([]))
    with pytest.raises(AssertionError, match="No valid data found"):
        get_detection_dataset_dicts(registered([entry(0)]))
    with pytest.raises(KeyError, match="'nothing' is not registered"):
        get_detection_dataset_dicts("nothing")


def test_dataset_dicts_agree_on_classes(registered):
    a = registered([entry(0, 1)], thing_classes=["x", "y"])
    c = registered([entry(3, 0)], thing_classes=["z"])
    with pytest.raises(ValueError, match="different metadata"):
        get_detection_dataset_dicts([a, c])
    assert len(get_detection_dataset_dicts([a, c], check_consistency=False)) == 2
    unnamed = registered([entry(0, 7)])
    assert len(get_detection_dataset_dicts(unnamed)) == 1
    with pytest.raises(AssertionError, match="invalid category_id=7"):
        get_detection_dataset_dicts(registered([entry(0, 7)], thing_classes=["x"]))


def test_dataset_dicts_of_datasets(registered):
    a, b = registered(DatasetFromList([1])), registered(DatasetFromList([2, 3]))
    assert isinstance(get_detection_dataset_dicts(a), DatasetFromList)
    joined = get_detection_dataset_dicts([a, b])
    assert isinstance(joined, ConcatDataset) and list(joined) == [1, 2, 3]


def test_histogram(caplog):
    names = ["a", "a name that is too long", "c", "d"]
    dicts = [entry(0, 0, 1, 1), entry(1, 3), entry(2, 2, crowd=1)]
    with caplog.at_level(logging.INFO, "detectron2"):
        print_instances_class_histogram(dicts, names)
    text = caplog.text
    assert "Distribution of instances among all 4 categories" in text
    cells = [x.strip() for x in text.replace("\n", "|").split("|")]
    for name, count in {"a": "1", "a name that..": "2", "c": "0", "d": "1", "total": "4"}.items():
        assert cells[cells.index(name) + 1] == count
    for bad in (4, -1):
        with pytest.raises(AssertionError, match=f"invalid category_id={bad}"):
            print_instances_class_histogram([entry(0, bad)], names)
    print_instances_class_histogram([], ["a"])


def test_keypoints_and_proposals_are_refused(registered, cfg):
    for arguments in ({"proposal_files": ["x.pkl"]}, {"min_keypoints": 1}):
        with pytest.raises(NotImplementedError, match="keypoints .*are not part of d2lite"):
            get_detection_dataset_dicts(registered([entry(0, 1)]), **arguments)
    cfg.MODEL.LOAD_PROPOSALS = True
    for build in (build_detection_train_loader, build_detection_test_loader):
        names = cfg.DATASETS.TEST if build is build_detection_test_loader else ()
        with pytest.raises(NotImplementedError, match="proposals are not part of d2lite"):
            build(cfg, *names, mapper=identity)


# ---- loaders


def first(loader, count):
    return list(itertools.islice(loader, count))


@pytest.mark.parametrize("workers", [0, 2])
def test_train_loader_covers_passes(workers):
    loader = build_detection_train_loader(
        list(range(8)),
        mapper=lambda x: x + 100,
        sampler=TrainingSampler(8, seed=0),
        total_batch_size=2,
        aspect_ratio_grouping=False,
        num_workers=workers,
    )
    batches = first(loader, 8)
    assert all(len(x) == 2 for x in batches)
    assert sorted(sum(batches[:4], [])) == list(range(100, 108)) == sorted(sum(batches[4:], []))


def test_batches_do_not_depend_on_workers():
    outs = []
    for workers in (0, 1, 2):
        loader = build_batch_data_loader(
            DatasetFromList(list(range(9))), TrainingSampler(9, seed=3), 3, num_workers=workers
        )
        outs.append(first(loader, 7))
    assert outs[0] == outs[1] == outs[2]


def test_ranks_have_their_own_data(monkeypatch):
    seen = []
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(build_module, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        loader = build_detection_train_loader(
            list(range(8)),
            mapper=None,
            sampler=TrainingSampler(8, seed=0),
            total_batch_size=4,
            aspect_ratio_grouping=False,
        )
        batches = first(loader, 2)
        assert all(len(x) == 2 for x in batches)
        seen += sum(batches, [])
    assert sorted(seen) == list(range(8))
    with pytest.raises(AssertionError, match=r"\(3\) must be divisible .*\(2\)"):
        build_batch_data_loader(DatasetFromList([1]), TrainingSampler(1, seed=0), 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_train_loader_groups(workers):
    entries = [{"width": 2 + i % 2, "height": 2.5, "i": i} for i in range(8)]
    loader = build_detection_train_loader(
        entries, mapper=identity, total_batch_size=4, num_workers=workers
    )
    for batch in first(loader, 6):
        assert len(batch) == 4 and len({x["width"] for x in batch}) == 1
    loader = build_detection_train_loader(
        entries, mapper=None, total_batch_size=4, num_workers=workers, collate_fn=len
    )
    assert first(loader, 3) == [4, 4, 4]
    with pytest.raises(AssertionError, match="drop incomplete"):
        build_detection_train_loader(entries, mapper=None, total_batch_size=4, drop_last=False)


def test_train_loader_of_streams():
    loader = build_detection_train_loader(
        Counting(5), mapper=lambda x: -x, total_batch_size=2, aspect_ratio_grouping=False
    )
    assert list(loader) == [[0, -1], [-2, -3]]
    kept = build_batch_data_loader(Counting(5), None, 2, drop_last=False)
    assert list(kept) == [[0, 1], [2, 3], [4]]
    for function in (build_detection_train_loader, build_detection_test_loader):
        sizes = {"total_batch_size": 2} if function is build_detection_train_loader else {}
        with pytest.raises(AssertionError, match="sampler must be None"):
            function(Counting(5), mapper=None, sampler=SequentialSampler([0]), **sizes)


def test_train_loader_arguments():
    with pytest.raises(AssertionError, match="Expect a Sampler"):
        build_detection_train_loader([1], mapper=None, sampler=[0], total_batch_size=1)
    with pytest.raises(ValueError, match="mutually incompatible"):
        build_batch_data_loader(Counting(3), None, 2, single_gpu_batch_size=1)
    loader = build_batch_data_loader(Counting(4), None, None, single_gpu_batch_size=4)
    assert list(loader) == [[0, 1, 2, 3]]
    assert loader.prefetch_factor is None and not loader.persistent_workers
    loader = build_batch_data_loader(
        Counting(4), None, 1, num_workers=1, prefetch_factor=5, persistent_workers=True,
        pin_memory=False, timeout=9,
    )  # fmt: skip
    assert loader.prefetch_factor == 5 and loader.persistent_workers and loader.timeout == 9


class Noise(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return float(np.random.rand()), float(torch.rand(()))


def test_workers_are_seeded():
    def draw(seed):
        loader = build_batch_data_loader(
            Noise(), SequentialSampler(range(4)), 1, num_workers=2, seed=seed
        )
        return sum(loader, [])

    first_draw = draw(1)
    assert first_draw == draw(1) != draw(2)
    assert len(set(first_draw)) == 4


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_test_loader(workers, batch_size):
    loader = build_detection_test_loader(
        list(range(7)), mapper=lambda x: x * 2, batch_size=batch_size, num_workers=workers
    )
    batches = list(loader)
    assert sum(batches, []) == [0, 2, 4, 6, 8, 10, 12]
    assert len(batches) == len(loader) == -(-7 // batch_size)
    assert isinstance(loader.sampler, InferenceSampler)
    summed = build_detection_test_loader([1, 2], mapper=None, batch_size=2, collate_fn=sum)
    assert list(summed) == [3]


def test_test_loader_covers_all_ranks(monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    seen = []
    for rank in range(3):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        seen += list(build_detection_test_loader(list(range(7)), mapper=None))
    assert sum(seen, []) == list(range(7))


SPAWN = """
import torch.multiprocessing as mp
import lvt_d2
from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import TrainingSampler

if __name__ == "__main__":
    mp.set_start_method("spawn")
    loader = build_detection_train_loader(
        [{"i": i} for i in range(6)], mapper=lambda x: x["i"], sampler=TrainingSampler(6, seed=0),
        total_batch_size=3, aspect_ratio_grouping=False, num_workers=1,
    )
    batches = iter(loader)
    assert sorted(next(batches) + next(batches)) == list(range(6))
    print("fine")
"""


def test_spawned_workers(tmp_path):
    script = tmp_path / "spawn.py"
    script.write_text(SPAWN)
    out = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert out.returncode == 0 and "fine" in out.stdout, out.stderr


# ---- from configs


@pytest.fixture
def cfg(registered):
    cfg = get_cfg()
    entries = [entry(i, i % 2) for i in range(6)] + [entry(6)]
    name = registered(entries, thing_classes=["x", "y"])
    cfg.DATASETS.TRAIN = (name,)
    cfg.DATASETS.TEST = (name,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 2
    return cfg


def image_ids(batches):
    return sorted(x["image_id"] for batch in batches for x in batch)


def test_train_loader_from_config(cfg):
    loader = build_detection_train_loader(cfg, mapper=identity)
    assert isinstance(loader, AspectRatioGroupedDataset)
    assert image_ids(first(loader, 3)) == list(range(6))
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    loader = build_detection_train_loader(cfg, mapper=identity, total_batch_size=7)
    assert image_ids(first(loader, 1)) == list(range(7))


def test_test_loader_from_config(cfg):
    name = cfg.DATASETS.TEST[0]
    loader = build_detection_test_loader(cfg, name, mapper=operator.itemgetter("image_id"))
    assert list(loader) == [[i] for i in range(7)]
    loader = build_detection_test_loader(cfg, [name], mapper=identity, batch_size=7)
    assert image_ids(loader) == list(range(7))


def test_samplers_from_config(cfg):
    def sampler(name):
        cfg.DATALOADER.SAMPLER_TRAIN = name
        return build_detection_train_loader(cfg, mapper=identity).dataset.dataset.sampler

    assert isinstance(sampler("TrainingSampler"), TrainingSampler)
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.9
    repeat = sampler("RepeatFactorTrainingSampler")
    assert isinstance(repeat, RepeatFactorTrainingSampler)
    assert (repeat._int_part + repeat._frac_part).tolist() == pytest.approx([1.8**0.5] * 6)
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.5
    assert isinstance(sampler("RandomSubsetTrainingSampler"), RandomSubsetTrainingSampler)
    with pytest.raises(ValueError, match="Unknown training sampler: Nothing"):
        sampler("Nothing")
