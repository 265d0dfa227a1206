"""Registers COCO and ADE20K below the folder that ``DETECTRON2_DATASETS`` names.

The folder is ``./datasets`` by default. Registration reads no file; asking the catalog does.
"""

import functools
import os

from detectron2._scope import missing_attribute

from ..catalog import DatasetCatalog, MetadataCatalog
from .builtin_meta import ADE20K_SEM_SEG_CATEGORIES, _get_builtin_metadata
from .coco import load_sem_seg, register_coco_instances
from .coco_panoptic import register_coco_panoptic, register_coco_panoptic_separated

__getattr__ = missing_attribute(__name__)

# name -> (folder of images, file of annotations)
_PREDEFINED_SPLITS_COCO = {
    "coco": {
        "coco_2014_train": ("coco/train2014", "coco/annotations/instances_train2014.json"),
        "coco_2014_val": ("coco/val2014", "coco/annotations/instances_val2014.json"),
        "coco_2014_minival": ("coco/val2014", "coco/annotations/instances_minival2014.json"),
        "coco_2017_train": ("coco/train2017", "coco/annotations/instances_train2017.json"),
        "coco_2017_val": ("coco/val2017", "coco/annotations/instances_val2017.json"),
        "coco_2017_test": ("coco/test2017", "coco/annotations/image_info_test2017.json"),
        "coco_2017_test-dev": ("coco/test2017", "coco/annotations/image_info_test-dev2017.json"),
        "coco_2017_val_100": ("coco/val2017", "coco/annotations/instances_val2017_100.json"),
    }
}
_MINIVAL = "coco/annotations/instances_valminusminival2014.json"
_PREDEFINED_SPLITS_COCO["coco"]["coco_2014_valminusminival"] = ("coco/val2014", _MINIVAL)

# name -> (folder of panoptic PNGs, panoptic annotations, folder of semantic PNGs)
_PREDEFINED_SPLITS_COCO_PANOPTIC = {
    f"coco_2017_{split}_panoptic": (
        f"coco/panoptic_{files}",
        f"coco/annotations/panoptic_{files}.json",
        f"coco/panoptic_stuff_{files}",
    )
    for split, files in (("train", "train2017"), ("val", "val2017"), ("val_100", "val2017_100"))
}


def register_all_coco(root: str) -> None:
    """Register the splits of COCO: instances, panoptic, panoptic separated, stuff only."""
    for family, splits in _PREDEFINED_SPLITS_COCO.items():
        for name, (image_root, json_file) in splits.items():
            paths = os.path.join(root, json_file), os.path.join(root, image_root)
            register_coco_instances(name, _get_builtin_metadata(family), *paths)
    for name, paths in _PREDEFINED_SPLITS_COCO_PANOPTIC.items():
        panoptic_root, panoptic_json, semantic_root = (os.path.join(root, x) for x in paths)
        instances = MetadataCatalog.get(name.removesuffix("_panoptic"))
        images = instances.image_root, panoptic_root, panoptic_json
        metadata = _get_builtin_metadata("coco_panoptic_separated")
        register_coco_panoptic_separated(
            name, metadata, *images, semantic_root, instances.json_file
        )
        metadata = _get_builtin_metadata("coco_panoptic_standard")
        register_coco_panoptic(name, metadata, *images, instances.json_file)


def register_all_ade20k(root: str) -> None:
    """Register ``ade20k_sem_seg_{train,val}``; labels are 0..149, and 255 is void."""
    root = os.path.join(root, "ADEChallengeData2016")
    for split, folder in (("train", "training"), ("val", "validation")):
        image_root = os.path.join(root, "images", folder)
        gt_root = os.path.join(root, "annotations_detectron2", folder)
        name = f"ade20k_sem_seg_{split}"
        DatasetCatalog.register(name, functools.partial(load_sem_seg, gt_root, image_root))
        MetadataCatalog.get(name).set(
            stuff_classes=ADE20K_SEM_SEG_CATEGORIES[:],
            image_root=image_root,
            sem_seg_root=gt_root,
            evaluator_type="sem_seg",
            ignore_label=255,
        )


# Not when this file is run by itself.
if __name__.endswith(".builtin"):
    _root = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
    register_all_coco(_root)
    register_all_ade20k(_root)
