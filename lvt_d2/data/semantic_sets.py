"""Semantic segmentation sets: folders of images and label PNGs, or derived from panoptic sets.

Nothing is prepared beforehand; `lvt_d2.data.read_sem_seg` decodes the labels while loading.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial

from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

from lvt_d2.data.coco_panoptic import (
    IGNORE_LABEL,
    load_coco_panoptic,
    register_loader,
    require_folder,
    spread_color,
)
from lvt_d2.errors import ConfigError, DatasetError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
LABEL_SUFFIXES = (".png",)
_MOST_NAMED = 3  # files in a message


def load_semantic(image_root: str, sem_seg_root: str | None) -> list[dict]:
    """List a set whose label PNGs are named after its images.

    No file is opened, so that tens of thousands are listed at once; mappers add the size.

    Args:
        image_root: folder of the images.
        sem_seg_root: folder of the label PNGs; None for a set without labels.

    Returns:
        Dicts with ``file_name``, ``image_id`` (the name without its suffix) and, with labels,
        ``sem_seg_file_name``; sorted by image id.

    Raises:
        DatasetError: a folder is missing or empty, or an image has no labels, or labels no image.
    """
    images = files_by_stem(image_root, "images", IMAGE_SUFFIXES)
    if sem_seg_root is None:
        return [{"file_name": path, "image_id": stem} for stem, path in sorted(images.items())]
    labels = files_by_stem(sem_seg_root, "label PNGs", LABEL_SUFFIXES)
    for some, others, root, other_root, what in (
        (images, labels, image_root, sem_seg_root, "images without labels"),
        (labels, images, sem_seg_root, image_root, "labels without an image"),
    ):
        lonely = sorted(some.keys() - others.keys())
        if lonely:
            named = ", ".join(lonely[:_MOST_NAMED]) + (", ..." if lonely[_MOST_NAMED:] else "")
            raise DatasetError(
                f"{root} has {len(lonely)} {what} of the same name in {other_root}: {named}. "
                "Unpack both again, or move those files away"
            )
    return [
        {"file_name": path, "image_id": stem, "sem_seg_file_name": labels[stem]}
        for stem, path in sorted(images.items())
    ]


def files_by_stem(root: str, what: str, suffixes: Sequence[str]) -> dict[str, str]:
    """Paths of the files in a folder by their names without suffix.

    Raises:
        DatasetError: the folder is missing or has none, or two have the same name.
    """
    require_folder(root, what)
    files = {}
    for name in PathManager.ls(root):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in suffixes or name.startswith("."):
            continue
        if stem in files:
            raise DatasetError(
                f"{files[stem]} and {name} in {root} have the same name but for the suffix; labels "
                "are found by it, so names must be unique"
            )
        files[stem] = os.path.join(root, name)
    if not files:
        raise DatasetError(
            f"the folder of {what}, {root}, has no file that ends in {', '.join(suffixes)}; unpack "
            "the data set there"
        )
    return files


def register_semantic_dataset(
    name: str,
    image_root: str,
    sem_seg_root: str | None,
    classes: Sequence[str],
    colors: Sequence[Sequence[int]] | None = None,
    reduce_zero_label: bool = False,
    how_to_get: str = "",
) -> None:
    """Register a set of images and label PNGs of the same names; it is listed on first use.

    Args:
        name: what configs call it.
        image_root: folder of the images.
        sem_seg_root: folder of the label PNGs; None for a set without labels.
        classes: names in the order of the labels.
        colors: RGB in 0..255 of each class, for pictures; None spreads some.
        reduce_zero_label: 0 in the PNGs is void, and class k is stored as k + 1, as in ADE20K;
            otherwise class k is stored as k. 255 is void in both.
        how_to_get: a sentence for the error that says that the set is missing.

    Raises:
        ConfigError: there is no class, there are more than 255, or not as many colours.
    """
    if not 1 <= len(classes) <= IGNORE_LABEL:
        raise ConfigError(
            f"{name!r} has {len(classes)} classes; expected 1..{IGNORE_LABEL}, since labels have "
            f"8 bits and {IGNORE_LABEL} is void"
        )
    if colors is None:
        colors = [spread_color(i) for i in range(1, len(classes) + 1)]
    if len(colors) != len(classes):
        raise ConfigError(
            f"{name!r} has {len(classes)} classes but {len(colors)} colours; expected one for each"
        )
    register_loader(name, partial(load_semantic, image_root, sem_seg_root), how_to_get)
    metadata = MetadataCatalog.get(name).set(
        stuff_classes=list(classes),
        stuff_colors=[list(color) for color in colors],
        image_root=image_root,
        reduce_zero_label=reduce_zero_label,
        evaluator_type="sem_seg",
        ignore_label=IGNORE_LABEL,
    )
    if sem_seg_root is not None:
        metadata.set(sem_seg_root=sem_seg_root)


def load_every_category(
    panoptic_json: str, image_root: str, panoptic_root: str, meta: Mapping
) -> list[dict]:
    """Load a panoptic set for semantic segmentation with a class of its own for every category.

    Returns:
        Dicts as of `load_coco_panoptic`, but no segment ``isthing``, and ``category_id`` counts
        things from 0 and stuff after them, as the metadata of `register_every_category` does.
    """
    dicts = load_coco_panoptic(panoptic_json, image_root, panoptic_root, meta)
    before_stuff = len(meta["thing_classes"]) - 1  # stuff counts from 1
    for segment in (s for d in dicts for s in d["segments_info"]):
        if not segment["isthing"]:
            segment["category_id"] += before_stuff
        segment["isthing"] = False
    return dicts


def register_every_category(
    name: str,
    meta: Mapping,
    panoptic_json: str,
    image_root: str,
    panoptic_root: str,
    how_to_get: str = "",
) -> None:
    """Register a panoptic set for semantic segmentation, every category a class of its own.

    Args:
        name: what configs call it.
        meta: the panoptic set's metadata.
        panoptic_json: the JSON.
        image_root: folder of the images.
        panoptic_root: folder of the PNGs.
        how_to_get: a sentence for the error that says that the set is missing.
    """
    load = partial(load_every_category, panoptic_json, image_root, panoptic_root, dict(meta))
    register_loader(name, load, how_to_get)
    MetadataCatalog.get(name).set(
        stuff_classes=meta["thing_classes"] + meta["stuff_classes"][1:],
        stuff_colors=meta["thing_colors"] + meta["stuff_colors"][1:],
        panoptic_json=panoptic_json,
        image_root=image_root,
        panoptic_root=panoptic_root,
        evaluator_type="sem_seg",
        ignore_label=IGNORE_LABEL,
    )
