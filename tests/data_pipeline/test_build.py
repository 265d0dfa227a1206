from pathlib import Path

import numpy as np
import pytest
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog

from lvt_d2.data import (
    PanopticMapper,
    build_test_loader,
    build_train_loader,
    get_panoptic_dicts,
    register_panoptic_dataset,
)
from lvt_d2.data.build import default_num_workers
from lvt_d2.errors import DatasetError

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


def test_default_num_workers():
    assert 1 <= default_num_workers() <= 8


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_configs(path, tmp_path):
    cfg = LazyConfig.load(str(path))
    cfg.train = {"output_dir": str(tmp_path)}
    loader = cfg.dataloader
    assert loader.train.dataset.names in DatasetCatalog.list()
    mapper = instantiate(loader.train.mapper)
    assert isinstance(mapper, PanopticMapper)
    assert mapper.is_train and mapper.image_format == "RGB" and mapper.box_source == "json"
    assert not instantiate(loader.test.mapper).is_train
    image = np.zeros((427, 640, 3), np.uint8)
    resize = instantiate(loader.test.mapper.augmentations[0]).get_transform(image)
    assert resize.new_w / resize.new_h == pytest.approx(640 / 427, rel=0.01)
    assert loader.test.num_workers is loader.train.num_workers is None
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
