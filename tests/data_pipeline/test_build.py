import copy
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, DatasetFromList, MapDataset, MetadataCatalog
from torch.utils.data import DataLoader

from lvt_d2.data import (
    PanopticMapper,
    build_test_loader,
    build_train_loader,
    get_panoptic_dicts,
    register_panoptic_dataset,
)
from lvt_d2.data.build import default_num_workers
from lvt_d2.errors import ConfigError, DatasetError

CONFIGS = Path(__file__).parents[2] / "configs/common/data"


@pytest.fixture
def tiny_name(tiny):
    name = "tiny_for_loaders"
    register_panoptic_dataset(name, *tiny.paths())
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def _without_things(content):
    segments = content["annotations"][0]["segments_info"]
    content["annotations"][0]["segments_info"] = segments[:2]


def _only_a_crowd(content):
    segments = content["annotations"][0]["segments_info"]
    content["annotations"][0]["segments_info"] = [segments[0], segments[4]]


def test_nothing_to_drop(tiny_name):
    assert len(get_panoptic_dicts(tiny_name)) == 2


def test_images_without_things_are_dropped(tiny, tiny_name, caplog):
    tiny.edit(_without_things)
    with caplog.at_level("INFO"):
        assert [d["image_id"] for d in get_panoptic_dicts(tiny_name)] == [2]
    assert "Dropped 1 of 2 images of tiny_for_loaders: 1 without a thing, 0 with" in caplog.text
    assert len(get_panoptic_dicts(tiny_name, filter_empty=False)) == 2


def test_a_crowd_counts_as_a_thing(tiny, tiny_name):
    tiny.edit(_only_a_crowd)
    assert len(get_panoptic_dicts(tiny_name)) == 2


def test_small_images_are_dropped(tiny, tiny_name, caplog):
    tiny.edit(lambda c: c["images"][0].update(height=31))
    with caplog.at_level("INFO"):
        assert [d["image_id"] for d in get_panoptic_dicts(tiny_name)] == [2]
    assert "1 with a side under 32 pixels" in caplog.text
    assert len(get_panoptic_dicts(tiny_name, min_size=31)) == 2


def test_several_sets(tiny, tiny_name):
    other = "tiny_of_other_classes"
    categories = [c for c in tiny.content()["categories"] if c["id"] != 12]
    register_panoptic_dataset(other, *tiny.paths(), categories=categories)
    try:
        assert len(get_panoptic_dicts([tiny_name, tiny_name])) == 4
        with pytest.raises(DatasetError, match=f"{tiny_name} and {other} have different stuff"):
            get_panoptic_dicts([tiny_name, other])
        with pytest.raises(DatasetError, match="category 12"):
            get_panoptic_dicts(other)
    finally:
        DatasetCatalog.remove(other)
        MetadataCatalog.remove(other)


def test_nothing_is_left(tiny_name):
    with pytest.raises(DatasetError, match=r"no image of tiny_for_loaders is left.*min_size"):
        get_panoptic_dicts(tiny_name, min_size=1000)


def test_unknown_name():
    with pytest.raises(DatasetError, match=r"'nothing'.*shapes_train_panoptic"):
        get_panoptic_dicts("nothing")
    with pytest.raises(DatasetError, match="at least one"):
        get_panoptic_dicts([])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loaders(tiny_name, num_workers):
    train = build_train_loader(
        get_panoptic_dicts(tiny_name),
        mapper=PanopticMapper(True, augmentations=[], image_format="RGB"),
        total_batch_size=2,
        num_workers=num_workers,
    )
    iterator = iter(train)
    for _ in range(2):
        batch = next(iterator)
        assert len(batch) == 2
        assert all(len(sample["instances"]) == 2 for sample in batch)
    test = build_test_loader(
        get_panoptic_dicts(tiny_name, filter_empty=False, min_size=0),
        mapper=PanopticMapper(False, augmentations=[], image_format="RGB"),
        num_workers=num_workers,
    )
    assert [sample["image_id"] for batch in test for sample in batch] == [2, 4]


def test_a_broken_image_is_replaced(tiny, tiny_name):
    dicts = get_panoptic_dicts(tiny_name)
    (tiny.images / "2.jpg").unlink()
    mapper = PanopticMapper(True, augmentations=[], image_format="RGB", skip_broken=True)
    loader = build_train_loader(dicts, mapper=mapper, total_batch_size=2, num_workers=0)
    batches = iter(loader)
    drawn = {sample["image_id"] for _ in range(4) for sample in next(batches)}
    assert drawn == {4}


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_skipped_images_are_counted_over_all_workers(tiny, tiny_name, start_method):
    dicts = get_panoptic_dicts(tiny_name)
    (tiny.images / "2.jpg").unlink()
    mapper = PanopticMapper(True, augmentations=[], image_format="RGB", skip_broken=True)
    # Detectron2's data sets hold mappers like this, and pickle them with cloudpickle.
    dataset = MapDataset(DatasetFromList(dicts), mapper)
    assert dicts[0]["image_id"] == 2
    loader = DataLoader(
        dataset,
        sampler=[0, 1, 0, 0],
        batch_size=None,
        num_workers=2,
        multiprocessing_context=start_method,
    )
    assert [sample["image_id"] for sample in loader] == [4] * 4
    assert mapper.num_skipped == 3
    copied = copy.deepcopy(mapper)
    assert copied(dicts[0]) is None
    assert (copied.num_skipped, mapper.num_skipped) == (4, 3)


@pytest.mark.parametrize(
    ("size", "processes"), [(0, 1), (-2, 1), (3, 2), (1.5, 1), ("8", 1), (None, 2)]
)
def test_bad_batch_sizes(monkeypatch, size, processes):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: processes)
    message = f"total_batch_size is {size!r}, with {processes} training process"
    with pytest.raises(ConfigError, match=message):
        build_train_loader([{}], mapper=dict, total_batch_size=size, num_workers=0)


def test_bad_loader_options():
    with pytest.raises(ConfigError, match="dataloader.test.batch_size is 0"):
        build_test_loader([{}], mapper=dict, batch_size=0)
    with pytest.raises(ConfigError, match="num_workers of a loader is -1"):
        build_test_loader([{}], mapper=dict, num_workers=-1)
    with pytest.raises(ConfigError, match="num_workers of a loader is -1"):
        build_train_loader([{}], mapper=dict, total_batch_size=1, num_workers=-1)


def test_classes_of_the_model(tiny_name):
    assert get_panoptic_dicts(tiny_name, num_things=2, num_stuff=3)
    with pytest.raises(ConfigError) as caught:
        get_panoptic_dicts(tiny_name, num_things=80, num_stuff=54)
    text = str(caught.value)
    assert "model.roi_heads.num_classes is 80, but the set has 2 things" in text
    assert "model.sem_seg_head.num_classes is 54, but the set has 3 stuff labels" in text
    assert "Set model.roi_heads.num_classes=2 model.sem_seg_head.num_classes=3," in text


def test_default_num_workers():
    assert 1 <= default_num_workers() <= 8


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*_panoptic.py")), ids=lambda path: path.stem)
def test_panoptic_configs(path, tmp_path):
    cfg = LazyConfig.load(str(path))
    cfg.train = {"output_dir": str(tmp_path)}
    loader = cfg.dataloader
    assert loader.train.dataset.names in DatasetCatalog.list()
    mapper = instantiate(loader.train.mapper)
    assert isinstance(mapper, PanopticMapper)
    assert mapper.is_train and mapper.image_format == "RGB" and mapper.box_source == "json"
    assert not instantiate(loader.test.mapper).is_train
    assert loader.train.dataset.num_things is loader.test.dataset.num_stuff is None  # no model
    image = np.zeros((427, 640, 3), np.uint8)
    resize = instantiate(loader.test.mapper.augmentations[0]).get_transform(image)
    assert resize.new_w / resize.new_h == pytest.approx(640 / 427, rel=0.01)
    assert loader.test.num_workers is loader.train.num_workers is None
    has_pictures = "PredictionPictures" in str(loader.evaluator[-1]._target_)
    assert has_pictures == (path.stem != "coco_panoptic")
    for evaluator in loader.evaluator:
        assert evaluator.dataset_name == loader.test.dataset.names
        if "output_dir" in evaluator:
            assert evaluator.output_dir.startswith(str(tmp_path))


def test_published_recipe():
    loader = LazyConfig.load(str(CONFIGS / "coco_panoptic.py")).dataloader
    assert loader.train.total_batch_size == 64
    assert loader.train.dataset.names == "lvt_coco_2017_train_panoptic"
    assert loader.test.dataset.names == "lvt_coco_2017_val_panoptic"
    resize, flip = (instantiate(a) for a in loader.train.mapper.augmentations)
    assert (resize.short_edge, resize.max_size, resize.sample_style) == ((640, 800), 1333, "range")
    assert flip.prob == 0.5
    test = instantiate(loader.test.mapper.augmentations[0])
    assert (test.short_edge, test.max_size) == ((800, 800), 1333)
