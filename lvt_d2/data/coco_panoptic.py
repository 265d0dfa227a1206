"""Data sets in the COCO panoptic format, read as they are downloaded.

One JSON (``images``, ``annotations`` with ``segments_info``, ``categories``), a folder of images
and a folder of PNGs with segment ids. Nothing is prepared beforehand: masks, boxes and semantic
labels come from the PNGs while loading (`lvt_d2.data.PanopticMapper`).
"""

import json
import logging
import os
from collections.abc import Callable, Mapping

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from lvt_d2.errors import DatasetError, DatasetFileNotFoundError

logger = logging.getLogger(__name__)

LABEL_DIVISOR = 1000  # ids of predicted segments: class * LABEL_DIVISOR + instance
IGNORE_LABEL = 255
_THINGS_COLOR = [82, 18, 128]


def where_datasets_are_looked_for() -> str:
    """One clause for error messages: the root folder, where it comes from and where to read on."""
    value = os.getenv("DETECTRON2_DATASETS")
    root = f"{value!r}" if value else "unset, so 'datasets' in the working directory"
    return f"DETECTRON2_DATASETS is {root}; datasets/README.md shows the tree and how to fill it"


def read_json(path: str, keys: tuple[str, ...]) -> dict:
    """Read a JSON object that must have certain lists.

    Raises:
        DatasetFileNotFoundError: the file is missing.
        DatasetError: it is no JSON (truncated downloads), or a list is missing.
    """
    try:
        with PathManager.open(path, "r") as file:
            content = json.load(file)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DatasetFileNotFoundError(
            f"{path} does not exist. {where_datasets_are_looked_for()}"
        ) from error
    except (ValueError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path} is not valid JSON ({error}); it is truncated or another kind of file. Unpack "
            "or download it again"
        ) from error
    found = sorted(content) if isinstance(content, dict) else type(content).__name__
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DatasetError(
                f"{path} has no list {key!r} (found: {found}); expected the COCO format with "
                f"{', '.join(keys)}"
            )
    return content


def require_folder(path: str, what: str) -> None:
    """Raise a DatasetFileNotFoundError that tells where sets are looked for."""
    if not PathManager.isdir(path):
        raise DatasetFileNotFoundError(
            f"the folder of {what}, {path}, does not exist. {where_datasets_are_looked_for()}"
        )


def _check_categories(categories: list[dict], meta: Mapping, path: str) -> None:
    """Raise where the JSON calls a thing what the metadata calls stuff, or the other way round."""
    for category in categories:
        is_thing = category["id"] in meta["thing_dataset_id_to_contiguous_id"]
        known = is_thing or category["id"] in meta["stuff_dataset_id_to_contiguous_id"]
        if known and bool(category.get("isthing", is_thing)) != is_thing:
            raise DatasetError(
                f"category {category['id']} ({category.get('name')!r}) is a "
                f"{'stuff class' if is_thing else 'thing'} in {path} but a "
                f"{'thing' if is_thing else 'stuff class'} in the metadata; register this set with "
                "lvt_d2.data.register_panoptic_dataset, which reads the JSON's own categories"
            )


def _unknown_category(
    category_id: int, content: dict, image_id: int, path: str, meta: Mapping
) -> DatasetError:
    names = {c["id"]: c.get("name") for c in content["categories"]}
    things = len(meta["thing_dataset_id_to_contiguous_id"])
    return DatasetError(
        f"category {category_id} ({names.get(category_id)!r}) of image {image_id} in {path} is "
        f"unknown to the metadata, which has {things} things and "
        f"{len(meta['stuff_classes']) - 1} stuff classes. Register this set with "
        "lvt_d2.data.register_panoptic_dataset (it reads the JSON's own categories; num_classes in "
        "the config must agree), or correct the file"
    )


def _convert_segment(segment: dict, meta: Mapping) -> dict:
    """The segment with contiguous ``category_id`` and ``isthing``; a KeyError where unknown."""
    category = segment["category_id"]
    things = meta["thing_dataset_id_to_contiguous_id"]
    is_thing = category in things
    contiguous = (things if is_thing else meta["stuff_dataset_id_to_contiguous_id"])[category]
    if not is_thing and contiguous == 0:
        raise KeyError(category)  # "things" is a label of pixels, not a category of segments
    converted = dict(segment)
    converted.update(
        category_id=contiguous, isthing=is_thing, iscrowd=int(segment.get("iscrowd", 0))
    )
    return converted


def load_coco_panoptic(
    panoptic_json: str, image_root: str, panoptic_root: str, meta: Mapping
) -> list[dict]:
    """Load a panoptic set as Detectron2 dataset dicts.

    Args:
        panoptic_json: the JSON with ``images``, ``annotations`` and ``categories``.
        image_root: folder of the images.
        panoptic_root: folder of the PNGs.
        meta: mapping with ``thing_dataset_id_to_contiguous_id``, ``stuff_classes`` and
            ``stuff_dataset_id_to_contiguous_id``.

    Returns:
        Dicts with ``file_name``, ``image_id``, ``height``, ``width`` (pixels),
        ``pan_seg_file_name`` and ``segments_info``, sorted by image id. A segment keeps the JSON's
        ``id``, ``bbox`` (x, y, w, h in pixels) and ``area``; its ``category_id`` is contiguous:
        things from 0, stuff from 1 (0 is "things" in semantic labels). Images without an
        annotation are left out.

    Raises:
        DatasetError: something is missing or broken; the message says what, where, and the remedy.
    """
    content = read_json(panoptic_json, ("images", "annotations", "categories"))
    require_folder(image_root, "images")
    require_folder(panoptic_root, "panoptic PNGs")
    try:
        _check_categories(content["categories"], meta, panoptic_json)
        images = {image["id"]: image for image in content["images"]}
        dicts = [
            _to_dict(a, images, image_root, panoptic_root, content, panoptic_json, meta)
            for a in content["annotations"]
        ]
    except (KeyError, TypeError) as error:
        raise DatasetError(
            f"an entry of {panoptic_json} lacks {error}; expected the COCO panoptic format "
            "(images: id, file_name, height, width; annotations: image_id, file_name, "
            "segments_info: id, category_id, bbox, area)"
        ) from error
    if not dicts:
        raise DatasetError(f"{panoptic_json} has no annotations; it describes nothing to load")
    if len(dicts) < len(images):
        logger.info(
            "%d of %d images in %s have no annotation and are left out",
            len(images) - len(dicts),
            len(images),
            panoptic_json,
        )
    return sorted(dicts, key=lambda d: d["image_id"])


def _to_dict(
    annotation: dict,
    images: dict[int, dict],
    image_root: str,
    panoptic_root: str,
    content: dict,
    path: str,
    meta: Mapping,
) -> dict:
    image_id = annotation["image_id"]
    if image_id not in images:
        raise DatasetError(
            f"{path} has an annotation ({annotation['file_name']}) for image {image_id}, which its "
            "list of images lacks; the file is incomplete: unpack or download it again"
        )
    segments = []
    for segment in annotation["segments_info"]:
        _ = segment["id"], segment["bbox"], segment["area"]
        try:
            segments.append(_convert_segment(segment, meta))
        except KeyError:
            category_id = segment["category_id"]
            raise _unknown_category(category_id, content, image_id, path, meta) from None
    image = images[image_id]
    return {
        "file_name": os.path.join(image_root, image["file_name"]),
        "image_id": image_id,
        "height": image["height"],
        "width": image["width"],
        "pan_seg_file_name": os.path.join(panoptic_root, annotation["file_name"]),
        "segments_info": segments,
    }


def load_test_images(image_info_json: str, image_root: str) -> list[dict]:
    """Load a set without labels (test-dev): ``file_name``, ``image_id``, ``height``, ``width``.

    Raises:
        DatasetError: something is missing or broken; the message says what, where, and the remedy.
    """
    content = read_json(image_info_json, ("images",))
    require_folder(image_root, "images")
    try:
        dicts = [
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "image_id": image["id"],
                "height": image["height"],
                "width": image["width"],
            }
            for image in content["images"]
        ]
    except (KeyError, TypeError) as error:
        raise DatasetError(
            f"an image of {image_info_json} lacks {error}; expected id, file_name, height, width"
        ) from error
    return sorted(dicts, key=lambda d: d["image_id"])


def metadata_from_categories(categories: list[dict], source: str = "the categories") -> dict:
    """Metadata of a set from COCO panoptic categories (``id``, ``name``, ``isthing``, ``color``).

    Things and stuff are numbered in the order of their ids, things from 0, stuff from 1: class 0 of
    the semantic labels is "things", as in Detectron2's ``coco_*_panoptic_separated``.

    Raises:
        DatasetError: a category lacks a key, an id comes twice, or there is no thing.
    """
    try:
        ordered = sorted(categories, key=lambda c: c["id"])
        things = [c for c in ordered if c["isthing"]]
        stuff = [c for c in ordered if not c["isthing"]]
        names = {c["id"]: c["name"] for c in ordered}
    except (KeyError, TypeError) as error:
        raise DatasetError(
            f"a category of {source} lacks {error}; expected id, name, isthing (and color)"
        ) from error
    if len(names) != len(ordered):
        raise DatasetError(f"{source} has a category id twice; ids must be unique")
    if not things:
        raise DatasetError(f"{source} has no category with isthing 1; a panoptic set needs things")

    def colors(group: list[dict]) -> list[list[int]]:
        return [list(c.get("color") or spread_color(c["id"])) for c in group]

    # Detectron2 maps the semantic label 0 ("things") to itself; a real stuff category wins.
    stuff_ids = {0: 0, **{c["id"]: i for i, c in enumerate(stuff, start=1)}}
    return {
        "thing_classes": [c["name"] for c in things],
        "thing_colors": colors(things),
        "thing_dataset_id_to_contiguous_id": {c["id"]: i for i, c in enumerate(things)},
        "stuff_classes": ["things"] + [c["name"] for c in stuff],
        "stuff_colors": [_THINGS_COLOR] + colors(stuff),
        "stuff_dataset_id_to_contiguous_id": stuff_ids,
    }


def spread_color(category_id: int) -> list[int]:
    """RGB of a category that has no colour: multiples of primes spread over the cube."""
    return [category_id * step % 206 + 50 for step in (67, 101, 149)]


def register_loader(name: str, load: Callable[[], list[dict]], how_to_get: str = "") -> None:
    """Register a set; ``how_to_get`` is a sentence for the error that says that it is missing."""

    def load_or_tell_how() -> list[dict]:
        try:
            return load()
        except DatasetFileNotFoundError as error:
            if how_to_get:
                raise DatasetFileNotFoundError(f"{error}. {how_to_get}") from error
            raise

    DatasetCatalog.register(name, load_or_tell_how)


def register_with_metadata(
    name: str,
    meta: Mapping,
    panoptic_json: str,
    image_root: str,
    panoptic_root: str,
    how_to_get: str = "",
) -> None:
    """Register a panoptic set whose metadata is known; its files are opened on first use.

    ``how_to_get`` is as for `register_loader`.
    """
    meta = dict(meta)

    def load() -> list[dict]:
        return load_coco_panoptic(panoptic_json, image_root, panoptic_root, meta)

    register_loader(name, load, how_to_get)
    MetadataCatalog.get(name).set(
        panoptic_json=panoptic_json,
        image_root=image_root,
        panoptic_root=panoptic_root,
        evaluator_type="coco_panoptic_seg",
        ignore_label=IGNORE_LABEL,
        label_divisor=LABEL_DIVISOR,
        **meta,
    )


def register_panoptic_dataset(
    name: str,
    panoptic_json: str,
    image_root: str,
    panoptic_root: str,
    categories: list[dict] | None = None,
) -> None:
    """Register your own set in the COCO panoptic format.

    Args:
        name: what configs call it.
        panoptic_json: the JSON.
        image_root: folder of the images.
        panoptic_root: folder of the PNGs.
        categories: dicts with ``id``, ``name``, ``isthing`` and maybe ``color``; None reads them
            from the JSON now. Give the training set's to a validation set whose JSON lists fewer.

    Raises:
        DatasetError: the JSON or its categories can't be used.
    """
    if categories is None:
        categories = read_json(panoptic_json, ("categories",))["categories"]
        source = panoptic_json
    else:
        source = f"the categories of {name!r}"
    meta = metadata_from_categories(categories, source)
    register_with_metadata(name, meta, panoptic_json, image_root, panoptic_root)
