"""Registers COCO and ADE20K below the folder that ``DETECTRON2_DATASETS`` names.

The folder is ``./datasets`` by default. Registration reads no file; asking the catalog does.
"""

import functools
import os

from ..catalog import DatasetCatalog, MetadataCatalog
from .builtin_meta import ADE20K_SEM_SEG_CATEGORIES, _get_builtin_metadata
from .coco import load_sem_seg, register_coco_instances
from .coco_panoptic import register_coco_panoptic, register_coco_panoptic_separated

# coco_<key> -> (folder of images, file of annotations)
_COCO_SPLITS = {
    "2014_train": ("train2014", "instances_train2014"),
    "2014_val": ("val2014", "instances_val2014"),
    "2014_minival": ("val2014", "instances_minival2014"),
    "2014_valminusminival": ("val2014", "instances_valminusminival2014"),
    "2017_train": ("train2017", "instances_train2017"),
    "2017_val": ("val2017", "instances_val2017"),
    "2017_test": ("test2017", "image_info_test2017"),
    "2017_test-dev": ("test2017", "image_info_test-dev2017"),
    "2017_val_100": ("val2017", "instances_val2017_100"),
}
# coco_<key>_panoptic -> end of the names of its folders and file
_PANOPTIC_SPLITS = {"2017_train": "train2017", "2017_val": "val2017", "2017_val_100": "val2017_100"}


def register_all_coco(root: str) -> None:
    """Register the splits of COCO: instances, panoptic, panoptic separated, stuff only."""
    root = os.path.join(root, "coco")
    for split, (images, annotations) in _COCO_SPLITS.items():
        paths = f"{root}/annotations/{annotations}.json", f"{root}/{images}"
        register_coco_instances(f"coco_{split}", _get_builtin_metadata("coco"), *paths)
    for split, end in _PANOPTIC_SPLITS.items():
        name, instances = f"coco_{split}_panoptic", MetadataCatalog.get(f"coco_{split}")
        panoptic = f"{root}/panoptic_{end}", f"{root}/annotations/panoptic_{end}.json"
        paths = instances.image_root, *panoptic, f"{root}/panoptic_stuff_{end}", instances.json_file
        metadata = _get_builtin_metadata("coco_panoptic_separated")
        register_coco_panoptic_separated(name, metadata, *paths)
        metadata = _get_builtin_metadata("coco_panoptic_standard")
        register_coco_panoptic(name, metadata, instances.image_root, *panoptic, instances.json_file)


def register_all_ade20k(root: str) -> None:
    """Register ``ade20k_sem_seg_{train,val}``; labels are 0..149, and 255 is void."""
    root = os.path.join(root, "ADEChallengeData2016")
    for split, folder in (("train", "training"), ("val", "validation")):
        image_root = os.path.join(root, "images", folder)
        gt_root = os.path.join(root, "annotations_detectron2", folder)
        name = f"ade20k_sem_seg_{split}"
        DatasetCatalog.register(name, functools.partial(load_sem_seg, gt_root, image_root))
        sources = {"image_root": image_root, "sem_seg_root": gt_root, "ignore_label": 255}
        metadata = {"stuff_classes": ADE20K_SEM_SEG_CATEGORIES[:], "evaluator_type": "sem_seg"}
        MetadataCatalog.get(name).set(**sources, **metadata)


# Not when this file is run by itself.
if __name__.endswith(".builtin"):
    _root = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
    register_all_coco(_root)
    register_all_ade20k(_root)
