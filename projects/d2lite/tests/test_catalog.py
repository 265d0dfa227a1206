"""The catalogs of data sets and their metadata."""

import copy
import pickle

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata


@pytest.fixture
def name():
    name = "test_catalog_entry"
    yield name
    DatasetCatalog.pop(name, None)
    MetadataCatalog.pop(name, None)


def test_register_and_get(name):
    DatasetCatalog.register(name, lambda: [{"a": 1}])
    assert DatasetCatalog.get(name) == [{"a": 1}]
    assert name in DatasetCatalog and name in DatasetCatalog.list()
    assert name in str(DatasetCatalog) and name in repr(DatasetCatalog)
    DatasetCatalog.remove(name)
    assert name not in DatasetCatalog


def test_a_name_is_taken_once(name):
    DatasetCatalog.register(name, list)
    with pytest.raises(AssertionError, match="already registered"):
        DatasetCatalog.register(name, list)


def test_a_loader_can_be_called(name):
    with pytest.raises(AssertionError, match="register a function"):
        DatasetCatalog.register(name, [])


def test_an_unknown_name_lists_the_known(name):
    DatasetCatalog.register(name, list)
    with pytest.raises(KeyError, match=f"'nothing' is not registered.*{name}"):
        DatasetCatalog.get("nothing")
    with pytest.raises(KeyError):
        DatasetCatalog.remove("nothing")


def test_metadata_is_made_once(name):
    meta = MetadataCatalog.get(name)
    assert meta is MetadataCatalog.get(name)
    assert meta.name == name and name in MetadataCatalog.list()
    assert name in str(MetadataCatalog)
    MetadataCatalog.remove(name)
    assert MetadataCatalog.get(name) is not meta
    with pytest.raises(AssertionError):
        MetadataCatalog.get("")


def test_metadata_can_not_change(name):
    meta = MetadataCatalog.get(name).set(thing_classes=["a"], evaluator_type="coco")
    meta.thing_classes = ["a"]
    with pytest.raises(AssertionError, match="cannot be set to a different value"):
        meta.thing_classes = ["b"]
    with pytest.raises(AssertionError):
        meta.set(evaluator_type="sem_seg")
    assert meta.as_dict() == {"name": name, "thing_classes": ["a"], "evaluator_type": "coco"}
    meta.as_dict()["thing_classes"] = ["b"]
    assert meta.thing_classes == ["a"]


def test_missing_metadata(name):
    meta = MetadataCatalog.get(name)
    with pytest.raises(AttributeError, match="metadata is empty"):
        meta.thing_classes  # noqa: B018
    meta.set(json_file="x")
    with pytest.raises(AttributeError, match=f"'{name}'. Available keys are .*json_file"):
        meta.thing_classes  # noqa: B018
    assert meta.get("thing_classes") is None
    assert meta.get("thing_classes", 3) == 3
    assert not hasattr(meta, "thing_classes")


@pytest.mark.parametrize(
    "clone", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_metadata_is_copied_whole(clone):
    meta = Metadata(name="x").set(thing_classes=["a"])
    assert clone(meta).as_dict() == meta.as_dict()
