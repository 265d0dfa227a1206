"""The generated shapes (datasets/make_shapes.py) at their own size; 8 images per iteration."""

from detectron2.config import LazyCall as L

from lvt_d2.data import ResizeKeepRatio

from ..pictures import pictures
from .coco_panoptic import dataloader

dataloader.train.dataset.names = "shapes_train_panoptic"
dataloader.test.dataset.names = "shapes_val_panoptic"

# Made at 160 pixels, and shown at that size: a shape's scale jitters in the scenes already.
dataloader.train.mapper.augmentations[0] = L(ResizeKeepRatio)(short_edge=160, max_size=160)
dataloader.test.mapper.augmentations[0] = L(ResizeKeepRatio)(short_edge=160, max_size=160)

dataloader.train.total_batch_size = 8
dataloader.test.batch_size = 4

dataloader.evaluator.append(pictures)
