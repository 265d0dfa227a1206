"""COCO's panoptic format: as it is, or split into instances and semantic labels."""

import functools
import json
import os

from detectron2.utils.file_io import PathManager

from ..catalog import DatasetCatalog, MetadataCatalog
from .coco import load_coco_json, load_sem_seg


def _contiguous_segment(segment: dict, meta: dict) -> dict:
    is_thing = segment["category_id"] in meta["thing_dataset_id_to_contiguous_id"]
    ids = meta[f"{'thing' if is_thing else 'stuff'}_dataset_id_to_contiguous_id"]
    return segment | {"category_id": ids[segment["category_id"]], "isthing": is_thing}


def load_coco_panoptic_json(json_file: str, image_dir: str, gt_dir: str, meta: dict) -> list[dict]:
    """Read a panoptic file of COCO.

    Args:
        json_file: path, e.g. of panoptic_train2017.json.
        image_dir: folder of the images.
        gt_dir: folder of the panoptic PNGs.
        meta: "thing_dataset_id_to_contiguous_id" and "stuff_dataset_id_to_contiguous_id".

    Returns:
        entries with "file_name", "image_id", "pan_seg_file_name" and "segments_info".

    Raises:
        AssertionError: there are no images, or the first image's files are missing.
    """
    with PathManager.open(json_file) as file:
        annotations = json.load(file)["annotations"]
    # An annotation's "file_name" is that of its PNG.
    entries = [
        {
            "file_name": os.path.join(image_dir, os.path.splitext(x["file_name"])[0] + ".jpg"),
            "image_id": int(x["image_id"]),
            "pan_seg_file_name": os.path.join(gt_dir, x["file_name"]),
            "segments_info": [_contiguous_segment(segment, meta) for segment in x["segments_info"]],
        }
        for x in annotations
    ]
    assert len(entries), f"No images found in {image_dir}!"
    for key in ("file_name", "pan_seg_file_name"):
        assert PathManager.isfile(entries[0][key]), entries[0][key]
    return entries


def _sources(image_root, panoptic_root, panoptic_json, instances_json) -> dict:
    """What the metadata say of panoptic data besides their classes."""
    files = {"image_root": image_root, "panoptic_root": panoptic_root}
    files |= {"panoptic_json": panoptic_json, "json_file": instances_json}
    return files | {"evaluator_type": "coco_panoptic_seg", "ignore_label": 255}


def register_coco_panoptic(
    name, metadata, image_root, panoptic_root, panoptic_json, instances_json=None
) -> None:
    """Register a data set in COCO's panoptic format.

    Args:
        name: e.g. "coco_2017_train_panoptic".
        metadata: with the maps to contiguous ids of things and stuff.
        image_root: folder of the images.
        panoptic_root: folder of the panoptic PNGs.
        panoptic_json: path.
        instances_json: path of the instances, for their evaluation.
    """
    paths = panoptic_json, image_root, panoptic_root
    DatasetCatalog.register(name, functools.partial(load_coco_panoptic_json, *paths, metadata))
    sources = _sources(image_root, panoptic_root, panoptic_json, instances_json)
    MetadataCatalog.get(name).set(**sources, label_divisor=1000, **metadata)


def _load_separated(instances_json, image_root, sem_seg_root, name) -> list[dict]:
    detection_dicts = load_coco_json(instances_json, image_root, name)
    return merge_to_panoptic(detection_dicts, load_sem_seg(sem_seg_root, image_root))


def register_coco_panoptic_separated(
    name, metadata, image_root, panoptic_root, panoptic_json, sem_seg_root, instances_json
) -> None:
    """Register panoptic data as ``{name}_separated`` and ``{name}_stuffonly``.

    The first has COCO's instances, and semantic labels from PNGs in which 0 stands for
    all things; the second those labels only. Panoptic FPN trains on the first.

    Args:
        name: e.g. "coco_2017_train_panoptic".
        metadata: further metadata.
        image_root: folder of the images.
        panoptic_root: folder of the panoptic PNGs.
        panoptic_json: path.
        sem_seg_root: folder of the semantic PNGs.
        instances_json: path.
    """
    separated, stuff_only = name + "_separated", name + "_stuffonly"
    paths = instances_json, image_root, sem_seg_root
    DatasetCatalog.register(separated, functools.partial(_load_separated, *paths, separated))
    sources = _sources(image_root, panoptic_root, panoptic_json, instances_json)
    MetadataCatalog.get(separated).set(**sources, sem_seg_root=sem_seg_root, **metadata)
    DatasetCatalog.register(stuff_only, functools.partial(load_sem_seg, sem_seg_root, image_root))
    sources = {"image_root": image_root, "sem_seg_root": sem_seg_root, "ignore_label": 255}
    MetadataCatalog.get(stuff_only).set(**sources, evaluator_type="sem_seg", **metadata)


def merge_to_panoptic(detection_dicts: list[dict], sem_seg_dicts: list[dict]) -> list[dict]:
    """Entries of instances with the semantic labels of the same image added.

    Args:
        detection_dicts: decide which images there are.
        sem_seg_dicts: must hold all of these.
    """
    by_image = {x["file_name"]: x for x in sem_seg_dicts}
    assert len(by_image) > 0, "There are no semantic labels to merge."
    return [x | by_image[x["file_name"]] for x in detection_dicts]
