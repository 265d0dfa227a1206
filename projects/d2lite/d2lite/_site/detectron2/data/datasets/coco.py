"""Instances and semantic segmentation in the layout of COCO, in both directions."""

import contextlib
import datetime
import functools
import io
import json
import logging
import os
import shutil

import numpy as np
import pycocotools.mask as mask_util
from iopath.common.file_io import file_lock
from pycocotools.coco import COCO

from detectron2.structures import BoxMode, PolygonMasks
from detectron2.utils.file_io import PathManager

from ..catalog import DatasetCatalog, MetadataCatalog

logger = logging.getLogger(__name__)


def _describe_categories(coco: COCO, dataset_name: str) -> dict[int, int]:
    """Store class names as metadata; returns the map from category ids to 0..#categories - 1."""
    categories = coco.loadCats(sorted(coco.getCatIds()))
    id_map = {x["id"]: i for i, x in enumerate(categories)}
    if [*id_map] != [*range(1, len(id_map) + 1)] and "coco" not in dataset_name:
        logger.warning("Category ids in annotations are not in [1, #categories]! We map them.")
    MetadataCatalog.get(dataset_name).set(
        thing_classes=[x["name"] for x in categories], thing_dataset_id_to_contiguous_id=id_map
    )
    return id_map


def _usable_segmentation(segmentation):
    """The segmentation as RLE or as its polygons of at least 3 points; empty if there are none."""
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            return mask_util.frPyObjects(segmentation, *segmentation["size"])
        return segmentation
    return [x for x in segmentation if len(x) % 2 == 0 and len(x) >= 6]


def _shifted_keypoints(keypoints: list[float], offset: float) -> list[float]:
    """(x, y, visibility) triples with x and y shifted.

    COCO counts pixels, 0..W-1, where Detectron2 measures coordinates, 0..W.
    """
    return [v if i % 3 == 2 else v + offset for i, v in enumerate(keypoints)]


def _read_annotation(annotation: dict, keys: list[str], id_map: dict | None) -> dict | None:
    """One annotation in Detectron2's format, None if its segmentation is unusable."""
    assert annotation.get("ignore", 0) == 0, '"ignore" in COCO json file is not supported.'
    obj = {key: annotation[key] for key in keys if key in annotation}
    if "bbox" in obj and len(obj["bbox"]) == 0:
        raise ValueError(f"Annotation of image {annotation['image_id']} contains empty 'bbox'!")
    obj["bbox_mode"] = BoxMode.XYWH_ABS
    if annotation.get("segmentation"):
        obj["segmentation"] = _usable_segmentation(annotation["segmentation"])
        if not obj["segmentation"]:
            return None
    if annotation.get("keypoints"):
        obj["keypoints"] = _shifted_keypoints(annotation["keypoints"], 0.5)
    if id_map:
        label = obj["category_id"]
        if label not in id_map:
            raise KeyError(f"Found category_id={label} but this id does not exist in the file")
        obj["category_id"] = id_map[label]
    return obj


def load_coco_json(json_file, image_root, dataset_name=None, extra_annotation_keys=None):
    """Read an instances file of COCO.

    Args:
        json_file: path.
        image_root: folder of the images.
        dataset_name: its metadata get "thing_classes" and "thing_dataset_id_to_contiguous_id", and
            category ids become contiguous; with None they stay as they are.
        extra_annotation_keys: further entries of annotations to keep.

    Returns:
        entries in Detectron2's format, sorted by image id.

    Raises:
        AssertionError: annotation ids repeat, or the unsupported "ignore" is set.
        KeyError: an annotation has a category that the file doesn't define.
        ValueError: an empty box.
    """
    json_file = os.fspath(json_file)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it does
        coco = COCO(PathManager.get_local_path(json_file))
    id_map = None if dataset_name is None else _describe_categories(coco, dataset_name)
    images = coco.loadImgs(sorted(coco.imgs))
    annotations = [coco.imgToAnns.get(x["id"], []) for x in images]
    ids = [x["id"] for of_image in annotations for x in of_image]
    if len(ids) < len(coco.anns):
        logger.warning(f"{json_file}: only {len(ids)} of {len(coco.anns)} annotations match images")
    # The minival2014 files are known to repeat some ids, without harm.
    unique = len(set(ids)) == len(ids) or "minival" in json_file
    assert unique, f"Annotation ids in '{json_file}' are not unique!"
    logger.info(f"Loaded {len(images)} images in COCO format from {json_file}")

    keys = ["iscrowd", "bbox", "keypoints", "category_id"] + (extra_annotation_keys or [])
    dataset_dicts, unusable = [], 0
    for image, of_image in zip(images, annotations, strict=True):
        record = {"file_name": os.path.join(image_root, image["file_name"])}
        record |= {"height": image["height"], "width": image["width"], "image_id": image["id"]}
        objs = [_read_annotation(x, keys, id_map) for x in of_image]
        record["annotations"] = [x for x in objs if x is not None]
        unusable += objs.count(None)
        dataset_dicts.append(record)
    if unusable:
        logger.warning(f"Filtered out {unusable} instances without valid segmentation.")
    return dataset_dicts


def load_sem_seg(gt_root, image_root, gt_ext="png", image_ext="jpg") -> list[dict]:
    """Pair images with label images of the same name in another folder.

    Files without a partner are left out with a warning.

    Args:
        gt_root: folder of label images, 8 bit.
        image_root: folder of images.
        gt_ext: extension of label images.
        image_ext: extension of images.

    Returns:
        dicts of "file_name" and "sem_seg_file_name", sorted by name.

    Raises:
        AssertionError: there is no label image.
    """

    def stems(root: str, ext: str) -> list[str]:
        files = (x for x in PathManager.ls(root) if x.endswith(ext))
        # Without the extension, so that the order is the same in both folders.
        return sorted((x[: -len(ext)] for x in files), key=lambda x: os.path.splitext(x + ext)[0])

    images, labels = stems(image_root, image_ext), stems(gt_root, gt_ext)
    assert len(labels) > 0, f"No annotations found in {gt_root}."
    if images != labels:
        counts = f"Directory {image_root} and {gt_root} has {len(images)} and {len(labels)} files"
        images = sorted(set(images) & set(labels))
        logger.warning(f"{counts}. Will use their intersection of {len(images)} files.")
    logger.info(f"Loaded {len(images)} images with semantic segmentation from {image_root}")
    image, gt = os.path.join(image_root, ""), os.path.join(gt_root, "")
    return [
        {"file_name": f"{image}{stem}{image_ext}", "sem_seg_file_name": f"{gt}{stem}{gt_ext}"}
        for stem in images
    ]


def _to_coco_annotation(annotation: dict, to_dataset_id) -> dict:
    bbox, segmentation = annotation["bbox"], annotation.get("segmentation")
    if np.ndim(bbox) != 1 or len(bbox) != 4:  # rotated boxes are not part of d2lite
        raise ValueError(f"bbox has to be 1-dimensional, of length 4. Got {bbox}.")
    xywh = BoxMode.convert([*map(float, bbox)], annotation["bbox_mode"], BoxMode.XYWH_ABS)
    area = xywh[2] * xywh[3]
    if isinstance(segmentation, list):
        area = PolygonMasks([segmentation]).area()[0].item()
    elif isinstance(segmentation, dict):
        area = mask_util.area(segmentation).item()
        if isinstance(segmentation["counts"], bytes):
            segmentation = segmentation | {"counts": segmentation["counts"].decode("ascii")}
    elif segmentation is not None:
        raise TypeError(f"Unknown segmentation type {type(segmentation)}!")
    result = {
        "bbox": [round(float(x), 3) for x in xywh],
        "area": float(area),
        "iscrowd": int(annotation.get("iscrowd", 0)),
        "category_id": int(to_dataset_id(annotation["category_id"])),
    }
    if "keypoints" in annotation:
        result["keypoints"] = _shifted_keypoints(annotation["keypoints"], -0.5)
        visible = sum(v > 0 for v in annotation["keypoints"][2::3])
        result["num_keypoints"] = annotation.get("num_keypoints", visible)
    return result | ({} if segmentation is None else {"segmentation": segmentation})


def convert_to_coco_dict(dataset_name: str) -> dict:
    """A registered data set in COCO's format, with its original category ids.

    The images need "width" and "height", and get their position as "id" if they have no
    "image_id"; annotation ids count from 1, since pycocotools takes 0 for "none".
    """
    dataset_dicts = DatasetCatalog.get(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    to_dataset_id = int
    if ids := metadata.get("thing_dataset_id_to_contiguous_id"):
        to_dataset_id = {v: k for k, v in ids.items()}.__getitem__
    names = enumerate(metadata.thing_classes)
    categories = [{"id": to_dataset_id(i), "name": name} for i, name in names]

    images, annotations = [], []
    for position, entry in enumerate(dataset_dicts):
        image = {"id": entry.get("image_id", position), "file_name": str(entry["file_name"])}
        images.append(image | {side: int(entry[side]) for side in ("width", "height")})
        for annotation in entry.get("annotations", []):
            ids = {"id": len(annotations) + 1, "image_id": image["id"]}
            annotations.append(ids | _to_coco_annotation(annotation, to_dataset_id))
    logger.info(f"Conversion finished, #images: {len(images)}, #annotations: {len(annotations)}")
    description = "Automatically generated COCO json file for Detectron2."
    info = {"date_created": str(datetime.datetime.now()), "description": description}
    result = {"info": info, "images": images, "categories": categories, "licenses": None}
    # A test set has no annotations, and then no such key.
    return result | ({"annotations": annotations} if annotations else {})


def convert_to_coco_json(dataset_name: str, output_file: str, allow_cached: bool = True) -> None:
    """Write ``convert_to_coco_dict`` to a file, once for all processes.

    Args:
        dataset_name: a registered data set.
        output_file: path; its folder is made.
        allow_cached: keep a file that is there already.
    """
    PathManager.mkdirs(os.path.dirname(output_file))
    with file_lock(output_file):
        if PathManager.exists(output_file) and allow_cached:
            logger.warning(f"Using previously cached '{output_file}'; clear it if it is outdated.")
            return
        coco_dict = convert_to_coco_dict(dataset_name)
        logger.info(f"Caching COCO format annotations at '{output_file}' ...")
        # Renamed when complete: a reader never meets half a file.
        with PathManager.open(output_file + ".tmp", "w") as file:
            json.dump(coco_dict, file)
        shutil.move(output_file + ".tmp", output_file)


def register_coco_instances(name: str, metadata: dict, json_file: str, image_root: str) -> None:
    """Register a data set in the format of COCO's instances files.

    Args:
        name: e.g. "coco_2017_train".
        metadata: further metadata; may be empty.
        json_file: path.
        image_root: folder of the images.
    """
    assert isinstance(name, str), name
    assert isinstance(json_file, (str, os.PathLike)), json_file
    assert isinstance(image_root, (str, os.PathLike)), image_root
    DatasetCatalog.register(name, functools.partial(load_coco_json, json_file, image_root, name))
    MetadataCatalog.get(name).set(
        json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata
    )
