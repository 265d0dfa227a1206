"""Registers the sets that this project's configs name, panoptic and semantic.

Their root is the folder in ``DETECTRON2_DATASETS``, by default ``datasets`` in the working
directory, as for Detectron2's own sets; datasets/README.md shows the tree.
"""

import os

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata

from lvt_d2.data.ade20k_meta import ADE20K_CLASSES, ADE20K_COLORS
from lvt_d2.data.coco_panoptic import (
    IGNORE_LABEL,
    LABEL_DIVISOR,
    load_test_images,
    metadata_from_categories,
    register_with_metadata,
)
from lvt_d2.data.semantic_sets import register_every_category, register_semantic_dataset
from lvt_d2.data.shapes_meta import SHAPES_CATEGORIES

ADE20K_FOLDER = "ADEChallengeData2016"
COCO_TEST_DEV = "lvt_coco_2017_test-dev"


def datasets_root() -> str:
    """Folder under which data sets are looked for."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def coco_paths(root: str, split: str) -> dict[str, str]:
    """Paths of one labelled COCO split (``train`` or ``val``).

    The PNG folder is ``annotations/panoptic_<split>2017``, where unpacking puts it, or
    ``panoptic_<split>2017``, where Detectron2's preparation expects it: the first that exists.
    """
    coco = os.path.join(root, "coco")
    folder = f"panoptic_{split}2017"
    candidates = [os.path.join(coco, "annotations", folder), os.path.join(coco, folder)]
    return {
        "panoptic_json": os.path.join(coco, "annotations", f"{folder}.json"),
        "image_root": os.path.join(coco, f"{split}2017"),
        "panoptic_root": next((c for c in candidates if os.path.isdir(c)), candidates[0]),
    }


def coco_test_paths(root: str) -> dict[str, str]:
    """Paths of COCO test-dev, which has no labels."""
    return {
        "image_info_json": os.path.join(root, "coco/annotations/image_info_test-dev2017.json"),
        "image_root": os.path.join(root, "coco/test2017"),
    }


def shapes_paths(root: str, split: str) -> dict[str, str]:
    """Paths of one split of the generated set (``train`` or ``val``)."""
    shapes = os.path.join(root, "shapes")
    return {
        "panoptic_json": os.path.join(shapes, "annotations", f"panoptic_{split}.json"),
        "image_root": os.path.join(shapes, split),
        "panoptic_root": os.path.join(shapes, "annotations", f"panoptic_{split}"),
    }


def coco_sample_paths(root: str) -> dict[str, str]:
    """Paths of a handful of COCO images in one folder."""
    sample = os.path.join(root, "coco_sample")
    return {
        "panoptic_json": os.path.join(sample, "panoptic.json"),
        "image_root": os.path.join(sample, "images"),
        "panoptic_root": os.path.join(sample, "panoptic"),
    }


def ade20k_paths(root: str, split: str) -> dict[str, str | None]:
    """Paths of one split of ADE20K as downloaded: ``train``, ``val`` or ``test`` (no labels)."""
    if split == "test":
        return {"image_root": os.path.join(root, "release_test/testing"), "sem_seg_root": None}
    folder = {"train": "training", "val": "validation"}[split]
    ade = os.path.join(root, ADE20K_FOLDER)
    return {
        "image_root": os.path.join(ade, "images", folder),
        "sem_seg_root": os.path.join(ade, "annotations", folder),
    }


def register_builtin(root: str | None = None) -> None:
    """Register all sets under ``root`` (default: `datasets_root`); names that exist are kept."""
    root = datasets_root() if root is None else root
    coco = _get_builtin_metadata("coco_panoptic_separated")
    shapes = metadata_from_categories(SHAPES_CATEGORIES)
    for split in ("train", "val"):
        _register(f"lvt_coco_2017_{split}", coco, coco_paths(root, split))
        how_to_get = f"`python datasets/make_shapes.py --output {root}` makes this one"
        _register(f"shapes_{split}", shapes, shapes_paths(root, split), how_to_get)
    _register("coco_sample", coco, coco_sample_paths(root))
    for split in ("train", "val", "test"):
        name = f"lvt_ade20k_sem_seg_{split}"
        if name not in DatasetCatalog:
            register_semantic_dataset(
                name,
                **ade20k_paths(root, split),
                classes=ADE20K_CLASSES,
                colors=ADE20K_COLORS,
                reduce_zero_label=True,
            )
    if COCO_TEST_DEV not in DatasetCatalog:
        paths = coco_test_paths(root)
        DatasetCatalog.register(COCO_TEST_DEV, lambda: load_test_images(**paths))
        MetadataCatalog.get(COCO_TEST_DEV).set(
            **paths,
            evaluator_type="coco_panoptic_seg",
            ignore_label=IGNORE_LABEL,
            label_divisor=LABEL_DIVISOR,
            **coco,
        )


def _register(name: str, meta: dict, paths: dict[str, str], how_to_get: str = "") -> None:
    """Register ``<name>_panoptic``, and ``<name>_semantic`` where every category is a class."""
    for suffix, register in (
        ("panoptic", register_with_metadata),
        ("semantic", register_every_category),
    ):
        if f"{name}_{suffix}" not in DatasetCatalog:
            register(f"{name}_{suffix}", meta, **paths, how_to_get=how_to_get)


def known_category_ids(name: str) -> frozenset[int]:
    """The dataset's own ids of all categories that a registered set's metadata knows."""
    meta = MetadataCatalog.get(name)
    things = meta.thing_dataset_id_to_contiguous_id
    # Contiguous stuff 0 is "things", a label of pixels and no category.
    stuff = {i for i, label in meta.stuff_dataset_id_to_contiguous_id.items() if label != 0}
    return frozenset({*things, *stuff})


register_builtin()
