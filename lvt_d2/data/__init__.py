"""Panoptic and semantic data as downloaded, labels derived while loading. Registers the sets."""

import lvt_d2.data.builtin  # noqa: F401
from lvt_d2.data.build import (
    build_test_loader,
    build_train_loader,
    get_panoptic_dicts,
    get_semantic_dicts,
)
from lvt_d2.data.coco_panoptic import (
    load_coco_panoptic,
    load_test_images,
    register_panoptic_dataset,
)
from lvt_d2.data.panoptic_mapper import PanopticMapper
from lvt_d2.data.panoptic_png import ids_to_rgb, read_panoptic_ids, rgb_to_ids
from lvt_d2.data.photometric import PhotometricDistortion
from lvt_d2.data.semantic_labels import read_sem_seg
from lvt_d2.data.semantic_mapper import SemanticMapper
from lvt_d2.data.semantic_sets import load_semantic, register_semantic_dataset
from lvt_d2.data.semantic_transforms import (
    CategoryAreaCrop,
    PadToSize,
    ResizeInRange,
    ResizeToMultiple,
)
from lvt_d2.data.train_loader import TrainLoader
from lvt_d2.data.transforms import BilinearResizeTransform, ResizeKeepRatio

__all__ = [
    "BilinearResizeTransform",
    "CategoryAreaCrop",
    "PadToSize",
    "PanopticMapper",
    "PhotometricDistortion",
    "ResizeInRange",
    "ResizeKeepRatio",
    "TrainLoader",
    "ResizeToMultiple",
    "SemanticMapper",
    "build_test_loader",
    "build_train_loader",
    "get_panoptic_dicts",
    "get_semantic_dicts",
    "ids_to_rgb",
    "load_coco_panoptic",
    "load_semantic",
    "load_test_images",
    "read_panoptic_ids",
    "read_sem_seg",
    "register_panoptic_dataset",
    "register_semantic_dataset",
    "rgb_to_ids",
]
