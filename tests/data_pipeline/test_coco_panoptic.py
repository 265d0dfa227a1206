import os
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from lvt_d2.data import load_test_images, register_panoptic_dataset
from lvt_d2.data.builtin import (
    coco_paths,
    coco_sample_paths,
    coco_test_paths,
    known_category_ids,
    register_builtin,
    shapes_paths,
)
from lvt_d2.data.coco_panoptic import load_coco_panoptic, metadata_from_categories
from lvt_d2.errors import DatasetError

from .conftest import CATEGORIES

ROOT = Path(__file__).parents[2]


def test_dicts(tiny):
    dicts = tiny.load()
    assert [d["image_id"] for d in dicts] == [2, 4]
    first = dicts[0]
    assert first["file_name"] == str(tiny.images / "2.jpg")
    assert first["pan_seg_file_name"] == str(tiny.pngs / "2.png")
    assert (first["height"], first["width"]) == (40, 60)
    found = [(s["category_id"], s["isthing"], s["iscrowd"]) for s in first["segments_info"]]
    # Things count from 0, stuff from 1: the semantic label 0 is "things".
    assert found == [(2, False, 0), (1, False, 0), (0, True, 0), (1, True, 0), (1, True, 1)]
    assert first["segments_info"][2]["id"] == 7
    assert first["segments_info"][2]["bbox"] == [5, 10, 15, 20]


def test_metadata_of_categories():
    meta = metadata_from_categories(CATEGORIES[::-1])
    assert meta["thing_classes"] == ["cat", "dog"]
    assert meta["stuff_classes"] == ["things", "grass", "sky"]
    assert meta["thing_dataset_id_to_contiguous_id"] == {3: 0, 5: 1}
    assert meta["stuff_dataset_id_to_contiguous_id"] == {0: 0, 9: 1, 12: 2}
    assert meta["thing_colors"][0] == [200, 0, 0]
    assert len(meta["stuff_colors"]) == 3
    assert all(0 <= c <= 255 for color in meta["stuff_colors"] for c in color)


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([{"id": 1, "name": "a"}], "lacks 'isthing'"),
        ([{"id": 1, "name": "a", "isthing": 0}], "needs things"),
        ([{"id": 1, "name": "a", "isthing": 1}, {"id": 1, "name": "b", "isthing": 0}], "twice"),
    ],
)
def test_bad_categories(categories, message):
    with pytest.raises(DatasetError, match=message):
        metadata_from_categories(categories, "x.json")


def test_crowd_flag_may_be_missing(tiny):
    def change(content):
        for segment in content["annotations"][0]["segments_info"]:
            del segment["iscrowd"]

    tiny.edit(change)
    assert {s["iscrowd"] for d in tiny.load() for s in d["segments_info"]} == {0, 1}


def test_images_without_annotation_are_left_out(tiny, caplog):
    tiny.edit(lambda content: content["annotations"].pop())
    with caplog.at_level("INFO"):
        assert [d["image_id"] for d in tiny.load()] == [4]
    assert "1 of 2 images" in caplog.text


def test_unknown_category(tiny):
    tiny.edit(lambda c: c["annotations"][1]["segments_info"][0].update(category_id=77))
    with pytest.raises(
        DatasetError, match=r"category 77 .*image 2 in .*panoptic\.json.*register_panoptic_dataset"
    ):
        tiny.load()


def test_the_label_of_things_is_no_category(tiny):
    tiny.edit(lambda c: c["annotations"][0]["segments_info"][0].update(category_id=0))
    with pytest.raises(DatasetError, match="category 0 "):
        tiny.load()


def test_thing_and_stuff_disagree_with_metadata(tiny):
    tiny.edit(lambda c: c["categories"][0].update(isthing=0))
    with pytest.raises(DatasetError, match=r"category 3 \('cat'\) is a stuff class in"):
        tiny.load()


@pytest.mark.parametrize("place", ["json", "images", "pngs"])
def test_missing_set_names_path_variable_and_readme(tiny, monkeypatch, place):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/some/where")
    path = getattr(tiny, place)
    path.rename(tiny.root / "elsewhere")
    with pytest.raises(DatasetError) as caught:
        tiny.load()
    for part in (str(path), "DETECTRON2_DATASETS is '/some/where'", "datasets/README.md"):
        assert part in str(caught.value)


def test_truncated_json(tiny):
    text = tiny.json.read_text()
    tiny.json.write_text(text[: len(text) // 2])
    with pytest.raises(DatasetError, match=r"panoptic\.json is not valid JSON.*truncated"):
        tiny.load()


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_json_of_another_kind(tiny, key):
    tiny.edit(lambda content: content.pop(key))
    with pytest.raises(DatasetError, match=f"has no list '{key}'"):
        tiny.load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][0].pop("height"), "lacks 'height'"),
        (lambda c: c["annotations"][0].pop("segments_info"), "lacks 'segments_info'"),
        (lambda c: c["annotations"][0]["segments_info"][0].pop("bbox"), "lacks 'bbox'"),
        (lambda c: c["annotations"][0].update(image_id=99), "for image 99"),
        (lambda c: c["annotations"].clear(), "no annotations"),
    ],
)
def test_broken_entries(tiny, change, message):
    tiny.edit(change)
    with pytest.raises(DatasetError, match=message):
        tiny.load()


def test_own_set_from_its_json(tiny):
    name = "tiny_from_json"
    register_panoptic_dataset(name, *tiny.paths())
    try:
        meta = MetadataCatalog.get(name)
        assert meta.thing_classes == ["cat", "dog"]
        assert meta.label_divisor == 1000
        assert meta.ignore_label == 255
        assert meta.evaluator_type == "coco_panoptic_seg"
        assert (meta.panoptic_json, meta.image_root, meta.panoptic_root) == tiny.paths()
        assert len(DatasetCatalog.get(name)) == 2
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_own_set_without_a_json(tmp_path):
    with pytest.raises(DatasetError, match=r"none\.json does not exist"):
        register_panoptic_dataset("tiny_absent", str(tmp_path / "none.json"), "a", "b")
    assert "tiny_absent" not in DatasetCatalog


def test_test_images(tiny):
    dicts = load_test_images(str(tiny.json), str(tiny.images))
    assert [d["image_id"] for d in dicts] == [2, 4]
    assert set(dicts[0]) == {"file_name", "image_id", "height", "width"}
    tiny.edit(lambda c: c["images"][0].pop("width"))
    with pytest.raises(DatasetError, match="lacks 'width'"):
        load_test_images(str(tiny.json), str(tiny.images))
    with pytest.raises(DatasetError, match="does not exist"):
        load_test_images(str(tiny.root / "none.json"), str(tiny.images))


def test_real_coco(coco_sample):
    meta = MetadataCatalog.get("coco_sample_panoptic")
    paths = coco_sample_paths(str(coco_sample.parent))
    dicts = load_coco_panoptic(*paths.values(), meta.as_dict())
    assert [d["image_id"] for d in dicts] == [142238, 439180]
    assert [len(d["segments_info"]) for d in dicts] == [18, 32]
    segments = dicts[0]["segments_info"]
    things = [s["category_id"] for s in segments if s["isthing"] and not s["iscrowd"]]
    stuff = [s["category_id"] for s in segments if not s["isthing"]]
    assert len(things) == 14
    assert max(things) < 80 and min(stuff) >= 1 and max(stuff) <= 53


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_metadata_is_the_engines(split):
    meta = MetadataCatalog.get(f"lvt_coco_2017_{split}_panoptic")
    assert len(meta.thing_classes) == 80
    assert len(meta.stuff_classes) == 54
    assert meta.stuff_classes[0] == "things"
    assert set(meta.thing_dataset_id_to_contiguous_id.values()) == set(range(80))
    assert known_category_ids(meta.name) == {c["id"] for c in COCO_CATEGORIES}
    root = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
    assert meta.panoptic_json == f"{root}/coco/annotations/panoptic_{split}2017.json"
    assert meta.image_root == f"{root}/coco/{split}2017"


def test_all_names_are_registered():
    register_builtin()  # again: keeps what is there
    for name in (
        "lvt_coco_2017_test-dev",
        "shapes_train_panoptic",
        "shapes_val_panoptic",
        "coco_sample_panoptic",
    ):
        assert name in DatasetCatalog
    assert not hasattr(MetadataCatalog.get("lvt_coco_2017_test-dev"), "panoptic_json")
    assert len(MetadataCatalog.get("shapes_train_panoptic").thing_classes) >= 5


def test_missing_shapes_say_how_to_make_them(tmp_path):
    script = "import lvt_d2.data as data; data.get_panoptic_dicts('shapes_val_panoptic')"
    env = {**os.environ, "DETECTRON2_DATASETS": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert f"{tmp_path}/shapes/annotations/panoptic_val.json does not exist" in done.stderr
    assert f"make_shapes.py --output {tmp_path}` makes this one" in done.stderr


def test_either_png_folder_is_found(tmp_path):
    root = str(tmp_path)
    default = os.path.join(root, "coco", "annotations", "panoptic_val2017")
    other = os.path.join(root, "coco", "panoptic_val2017")
    assert coco_paths(root, "val")["panoptic_root"] == default
    os.makedirs(other)
    assert coco_paths(root, "val")["panoptic_root"] == other
    os.makedirs(default)
    assert coco_paths(root, "val")["panoptic_root"] == default
    assert shapes_paths(root, "val")["image_root"] == os.path.join(root, "shapes", "val")
    assert coco_test_paths(root)["image_info_json"].endswith("image_info_test-dev2017.json")
