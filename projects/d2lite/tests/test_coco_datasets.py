"""COCO's formats, read and written, and the builtin data sets."""

import json
import os
import subprocess
import sys

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, datasets
from detectron2.data.datasets import builtin_meta
from detectron2.data.datasets.coco import (
    convert_to_coco_dict,
    convert_to_coco_json,
    load_coco_json,
    load_sem_seg,
    register_coco_instances,
)
from detectron2.data.datasets.coco_panoptic import (
    load_coco_panoptic_json,
    merge_to_panoptic,
    register_coco_panoptic,
    register_coco_panoptic_separated,
)
from detectron2.structures import BoxMode
from PIL import Image

SQUARE = [2.0, 2, 8, 2, 8, 8, 2, 8]


@pytest.fixture
def name():
    name = "test_reading"
    yield name
    for suffix in ("", "_separated", "_stuffonly"):
        DatasetCatalog.pop(name + suffix, None)
        MetadataCatalog.pop(name + suffix, None)


def coco_file():
    annotations = [
        {"id": 1, "image_id": 9, "category_id": 7, "bbox": [2, 2, 6, 6], "iscrowd": 0,
         "area": 36, "segmentation": [SQUARE], "score": 0.5},
        {"id": 2, "image_id": 9, "category_id": 3, "bbox": [0, 0, 2, 1], "iscrowd": 1,
         "area": 2, "segmentation": {"counts": [0, 1, 9, 1, 109], "size": [10, 12]}},
        {"id": 3, "image_id": 4, "category_id": 3, "bbox": [0, 0, 2, 1], "iscrowd": 0,
         "area": 2, "segmentation": [[0, 0, 1, 1]]},
        {"id": 4, "image_id": 4, "category_id": 3, "bbox": [0, 0, 2, 1], "iscrowd": 0, "area": 2},
    ]  # fmt: skip
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 10, "width": 12} for i in (9, 4, 5)]
    categories = [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def json_file(tmp_path):
    def write(content):
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        return str(path)

    return write


# ---- instances


def test_load_instances(json_file, name, caplog):
    dicts = load_coco_json(json_file(coco_file()), "root", name)
    assert "Category ids in annotations are not in [1, #categories]!" in caplog.text
    assert "Filtered out 1 instances without valid segmentation" in caplog.text
    assert [x["image_id"] for x in dicts] == [4, 5, 9]
    assert dicts[2]["file_name"] == "root/9.jpg"
    assert (dicts[2]["height"], dicts[2]["width"]) == (10, 12)
    assert [len(x["annotations"]) for x in dicts] == [1, 0, 2]
    polygon, crowd = dicts[2]["annotations"]
    assert polygon == {
        "iscrowd": 0, "bbox": [2, 2, 6, 6], "category_id": 1, "segmentation": [SQUARE],
        "bbox_mode": BoxMode.XYWH_ABS,
    }  # fmt: skip
    assert mask_util.decode(crowd["segmentation"]).sum() == 2
    assert "segmentation" not in dicts[0]["annotations"][0]
    meta = MetadataCatalog.get(name)
    assert meta.thing_classes == ["three", "seven"]
    assert meta.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}


def test_load_instances_without_a_name(json_file):
    dicts = load_coco_json(json_file(coco_file()), "root", extra_annotation_keys=["score"])
    assert dicts[2]["annotations"][0]["category_id"] == 7
    assert dicts[2]["annotations"][0]["score"] == 0.5


def test_load_keypoints_and_test_sets(json_file):
    content = coco_file()
    content["annotations"][0]["keypoints"] = [1, 2, 2, 0, 0, 0]
    dicts = load_coco_json(json_file(content), "")
    assert dicts[2]["annotations"][0]["keypoints"] == [1.5, 2.5, 2, 0.5, 0.5, 0]
    del content["annotations"]
    assert [x["annotations"] for x in load_coco_json(json_file(content), "")] == [[], [], []]


def test_bad_instances(json_file, name, caplog, tmp_path):
    def broken(index, **changes):
        content = coco_file()
        content["annotations"][index].update(changes)
        return json_file(content)

    with pytest.raises(AssertionError, match="not unique"):
        load_coco_json(broken(0, id=2), "")
    with pytest.raises(AssertionError, match='"ignore"'):
        load_coco_json(broken(0, ignore=1), "")
    with pytest.raises(ValueError, match="image 9 contains empty 'bbox'"):
        load_coco_json(broken(0, bbox=[]), "")
    with pytest.raises(KeyError, match="category_id=1 but this id does not exist"):
        load_coco_json(broken(0, category_id=1), "", name)
    load_coco_json(broken(0, image_id=77), "")
    assert "only 3 of 4 annotations match images" in caplog.text
    with pytest.raises(FileNotFoundError, match="nothing.json"):
        load_coco_json(str(tmp_path / "nothing.json"), "")


def test_register_instances(json_file, name):
    path = json_file(coco_file())
    register_coco_instances(name, {"thing_colors": [1]}, path, "root")
    meta = MetadataCatalog.get(name)
    assert (meta.json_file, meta.image_root, meta.evaluator_type) == (path, "root", "coco")
    assert meta.thing_colors == [1]
    assert len(DatasetCatalog.get(name)) == 3
    with pytest.raises(AssertionError):
        register_coco_instances(3, {}, path, "root")
    with pytest.raises(AssertionError):
        register_coco_instances("x", {}, 3, "root")


def test_conversion_there_and_back(json_file, name, tmp_path):
    register_coco_instances(name, {}, json_file(coco_file()), "")
    before = DatasetCatalog.get(name)
    coco = convert_to_coco_dict(name)
    assert coco["categories"] == [{"id": 3, "name": "three"}, {"id": 7, "name": "seven"}]
    assert [x["id"] for x in coco["annotations"]] == [1, 2, 3]
    assert [x["area"] for x in coco["annotations"]] == [2, 36, 2]
    assert [x["category_id"] for x in coco["annotations"]] == [3, 7, 3]
    assert coco["annotations"][2]["iscrowd"] == 1
    assert isinstance(coco["annotations"][2]["segmentation"]["counts"], str)
    output = str(tmp_path / "folder" / "out.json")
    convert_to_coco_json(name, output)
    after = load_coco_json(output, "", name)
    for old, new in zip(before, after, strict=True):
        assert old["image_id"] == new["image_id"] and old["file_name"] == new["file_name"]
        for x, y in zip(old["annotations"], new["annotations"], strict=True):
            assert x["bbox"] == y["bbox"] and x["category_id"] == y["category_id"]


def test_conversion_of_other_forms(name, tmp_path, caplog):
    entry = {"file_name": "a.jpg", "height": 10, "width": 12}
    boxes = [
        {"bbox": np.array([1.0, 2, 4, 6.0006]), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0},
        {"bbox": [1, 1, 2, 2], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0,
         "keypoints": [1.5, 2.5, 2, 0.5, 0.5, 0]},
    ]  # fmt: skip
    entries = [entry, entry | {"annotations": boxes}]
    DatasetCatalog.register(name, lambda: entries)
    MetadataCatalog.get(name).thing_classes = ["a"]
    coco = convert_to_coco_dict(name)
    assert [x["id"] for x in coco["images"]] == [0, 1]
    assert coco["annotations"][0]["bbox"] == [1, 2, 3, 4.001]
    assert coco["annotations"][0]["area"] == pytest.approx(12.0018)
    assert coco["annotations"][1]["keypoints"] == [1, 2, 2, 0, 0, 0]
    assert coco["annotations"][1]["num_keypoints"] == 1
    # What the catalog gave is left alone.
    assert boxes[1]["keypoints"] == [1.5, 2.5, 2, 0.5, 0.5, 0]

    output = tmp_path / "cached.json"
    convert_to_coco_json(name, str(output))
    entries.pop()
    convert_to_coco_json(name, str(output))
    assert "previously cached" in caplog.text
    assert len(json.loads(output.read_text())["images"]) == 2
    convert_to_coco_json(name, str(output), allow_cached=False)
    alone = json.loads(output.read_text())
    assert len(alone["images"]) == 1 and "annotations" not in alone


@pytest.mark.parametrize(
    "changes, error",
    [
        ({"bbox": np.zeros((1, 4))}, "1-dimensional"),
        ({"bbox": [1, 2, 3]}, "length 4"),
        ({"bbox": [5, 5, 4, 2, 30], "bbox_mode": BoxMode.XYWHA_ABS}, "length 4"),  # rotated
    ],
)
def test_conversion_refuses(name, changes, error):
    annotation = {"bbox": [1, 1, 2, 2], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0} | changes
    entry = {"file_name": "a", "height": 1, "width": 1, "annotations": [annotation]}
    DatasetCatalog.register(name, lambda: [entry])
    MetadataCatalog.get(name).thing_classes = ["a"]
    with pytest.raises(ValueError, match=error):
        convert_to_coco_dict(name)


# ---- semantic and panoptic


def touch_images(folder, ext, *stems):
    folder.mkdir(exist_ok=True)
    for stem in stems:
        Image.new("L", (4, 4)).save(folder / f"{stem}.{ext}")


def test_load_sem_seg(tmp_path, caplog):
    touch_images(tmp_path / "images", "jpg", "b", "a", "only_image")
    touch_images(tmp_path / "labels", "png", "a", "b", "only_label_1", "only_label_2")
    dicts = load_sem_seg(str(tmp_path / "labels"), str(tmp_path / "images"))
    assert [x["file_name"][-5:] for x in dicts] == ["a.jpg", "b.jpg"]
    assert [x["sem_seg_file_name"][-5:] for x in dicts] == ["a.png", "b.png"]
    assert "has 3 and 4 files" in caplog.text and "intersection of 2 files" in caplog.text
    (tmp_path / "empty").mkdir()
    with pytest.raises(AssertionError, match="No annotations found"):
        load_sem_seg(str(tmp_path / "empty"), str(tmp_path / "images"))


@pytest.fixture
def panoptic(tmp_path):
    touch_images(tmp_path / "images", "jpg", "000000000001", "000000000002")
    touch_images(tmp_path / "panoptic", "png", "000000000001", "000000000002")
    touch_images(tmp_path / "semantic", "png", "000000000001", "000000000002")
    annotations = [
        {
            "image_id": str(i),
            "file_name": f"{i:012}.png",
            "segments_info": [
                {"id": 5, "category_id": 2, "iscrowd": 0},
                {"id": 6, "category_id": 92, "iscrowd": 0},
            ],
        }
        for i in (1, 2)
    ]
    path = tmp_path / "panoptic.json"
    path.write_text(json.dumps({"annotations": annotations}))
    return tmp_path


def test_panoptic(panoptic, name):
    meta = builtin_meta._get_builtin_metadata("coco_panoptic_standard")
    images, labels = str(panoptic / "images"), str(panoptic / "panoptic")
    file = str(panoptic / "panoptic.json")
    register_coco_panoptic(name, meta, images, labels, file, "instances.json")
    dicts = DatasetCatalog.get(name)
    assert dicts[0] == {
        "file_name": f"{images}/000000000001.jpg",
        "image_id": 1,
        "pan_seg_file_name": f"{labels}/000000000001.png",
        "segments_info": [
            {"id": 5, "category_id": 1, "iscrowd": 0, "isthing": True},
            {"id": 6, "category_id": 80, "iscrowd": 0, "isthing": False},
        ],
    }
    stored = MetadataCatalog.get(name)
    assert stored.evaluator_type == "coco_panoptic_seg" and stored.label_divisor == 1000
    assert stored.ignore_label == 255 and stored.json_file == "instances.json"
    assert (stored.panoptic_root, stored.panoptic_json) == (labels, file)
    with pytest.raises(AssertionError, match="nowhere"):
        load_coco_panoptic_json(file, "nowhere", labels, meta)
    with pytest.raises(KeyError, match="92"):
        load_coco_panoptic_json(
            file, images, labels, meta | {"stuff_dataset_id_to_contiguous_id": {}}
        )
    (panoptic / "panoptic.json").write_text('{"annotations": []}')
    with pytest.raises(AssertionError, match="No images found"):
        load_coco_panoptic_json(file, images, labels, meta)


def test_panoptic_separated(panoptic, name, json_file):
    content = coco_file()
    content["images"] = [
        {"id": i, "file_name": f"{i:012}.jpg", "height": 4, "width": 4} for i in (1, 2)
    ]
    content["annotations"] = []
    meta = {"stuff_classes": ["things", "grass"]}
    register_coco_panoptic_separated(
        name,
        meta,
        str(panoptic / "images"),
        str(panoptic / "panoptic"),
        str(panoptic / "panoptic.json"),
        str(panoptic / "semantic"),
        json_file(content),
    )
    dicts = DatasetCatalog.get(name + "_separated")
    assert [x["image_id"] for x in dicts] == [1, 2]
    assert dicts[0]["annotations"] == []
    assert dicts[0]["sem_seg_file_name"].endswith("semantic/000000000001.png")
    assert MetadataCatalog.get(name + "_separated").evaluator_type == "coco_panoptic_seg"
    stuff = DatasetCatalog.get(name + "_stuffonly")
    assert len(stuff) == 2 and set(stuff[0]) == {"file_name", "sem_seg_file_name"}
    assert MetadataCatalog.get(name + "_stuffonly").evaluator_type == "sem_seg"
    assert MetadataCatalog.get(name + "_stuffonly").stuff_classes == ["things", "grass"]


def test_merge():
    merged = merge_to_panoptic(
        [{"file_name": "a", "image_id": 1}],
        [
            {"file_name": "b", "sem_seg_file_name": "x"},
            {"file_name": "a", "sem_seg_file_name": "y"},
        ],
    )
    assert merged == [{"file_name": "a", "image_id": 1, "sem_seg_file_name": "y"}]
    with pytest.raises(AssertionError):
        merge_to_panoptic([{"file_name": "a"}], [])


def test_real_annotations(coco_sample, name):
    meta = builtin_meta._get_builtin_metadata("coco_panoptic_standard")
    register_coco_panoptic(
        name,
        meta,
        str(coco_sample / "images"),
        str(coco_sample / "panoptic"),
        str(coco_sample / "panoptic.json"),
    )
    source = json.loads((coco_sample / "panoptic.json").read_text())
    names = {x["id"]: x["name"] for x in source["categories"]}
    for entry, annotation in zip(DatasetCatalog.get(name), source["annotations"], strict=True):
        for ours, theirs in zip(entry["segments_info"], annotation["segments_info"], strict=True):
            assert meta["stuff_classes"][ours["category_id"]] == names[theirs["category_id"]]
    instances = load_coco_json(str(coco_sample / "instances_and_stuff_rle.json"), "")
    assert sum(len(x["annotations"]) for x in instances) == 50


# ---- builtin


def test_categories(coco_sample):
    source = json.loads((coco_sample / "panoptic.json").read_text())["categories"]
    wanted = [{k: x[k] for k in ("color", "isthing", "id", "name")} for x in source]
    assert wanted == builtin_meta.COCO_CATEGORIES


def test_coco_metadata():
    meta = MetadataCatalog.get("coco_2017_val")
    assert len(meta.thing_classes) == 80 == len(meta.thing_colors)
    assert meta.thing_classes[0] == "person" and meta.thing_classes[-1] == "toothbrush"
    assert meta.thing_dataset_id_to_contiguous_id[90] == 79
    separated = MetadataCatalog.get("coco_2017_val_panoptic_separated")
    assert len(separated.stuff_classes) == 54 == len(separated.stuff_colors)
    assert separated.stuff_classes[:3] == ["things", "banner", "blanket"]
    assert separated.stuff_classes[-1] == "rug" and separated.stuff_colors[0] == [82, 18, 128]
    assert separated.stuff_dataset_id_to_contiguous_id[0] == 0
    assert separated.stuff_dataset_id_to_contiguous_id[200] == 53
    assert separated.thing_classes == meta.thing_classes
    standard = MetadataCatalog.get("coco_2017_val_panoptic")
    assert len(standard.thing_classes) == 133 == len(standard.stuff_colors)
    assert len(standard.thing_dataset_id_to_contiguous_id) == 80
    assert len(standard.stuff_dataset_id_to_contiguous_id) == 53
    assert standard.stuff_dataset_id_to_contiguous_id[200] == 132
    with pytest.raises(KeyError, match="No built-in metadata for dataset nothing"):
        builtin_meta._get_builtin_metadata("nothing")


def test_ade20k_metadata():
    meta = MetadataCatalog.get("ade20k_sem_seg_val")
    assert len(meta.stuff_classes) == 150 == len(set(meta.stuff_classes))
    assert meta.stuff_classes[0] == "wall" and meta.stuff_classes[149] == "flag"
    assert meta.evaluator_type == "sem_seg" and meta.ignore_label == 255


def test_builtin_names():
    coco = {"2014_train", "2014_val", "2014_minival", "2014_valminusminival", "2017_train"}
    coco |= {"2017_val", "2017_test", "2017_test-dev", "2017_val_100"}
    expected = {f"coco_{x}" for x in coco}
    for split in ("train", "val", "val_100"):
        expected |= {f"coco_2017_{split}_panoptic{x}" for x in ("", "_separated", "_stuffonly")}
    expected |= {"ade20k_sem_seg_train", "ade20k_sem_seg_val"}
    assert expected <= set(DatasetCatalog.list())


def test_root_comes_from_the_environment(tmp_path):
    code = (
        "import lvt_d2; from detectron2.data import MetadataCatalog as M;"
        "m = M.get('coco_2017_train_panoptic_separated');"
        "print(m.image_root, m.panoptic_root, m.panoptic_json, m.sem_seg_root, m.json_file);"
        "m = M.get('ade20k_sem_seg_train'); print(m.image_root, m.sem_seg_root)"
    )
    environment = os.environ | {"DETECTRON2_DATASETS": "/data"}
    out = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)
    coco, ade = "/data/coco", "/data/ADEChallengeData2016"
    assert out.split() == [
        f"{coco}/train2017",
        f"{coco}/panoptic_train2017",
        f"{coco}/annotations/panoptic_train2017.json",
        f"{coco}/panoptic_stuff_train2017",
        f"{coco}/annotations/instances_train2017.json",
        f"{ade}/images/training",
        f"{ade}/annotations_detectron2/training",
    ]


def test_names_outside_the_scope():
    with pytest.raises(AttributeError, match="not part of d2lite"):
        datasets.load_lvis_json  # noqa: B018
