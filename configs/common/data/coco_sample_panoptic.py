"""A handful of COCO images, trained and tested on: proves that the real path learns."""

from detectron2.config import LazyCall as L

from lvt_d2.data import ResizeKeepRatio

from ..pictures import pictures
from .coco_panoptic import dataloader

dataloader.train.dataset.names = "coco_sample_panoptic"
dataloader.test.dataset.names = "coco_sample_panoptic"

# Small enough for a CPU; the same size in training and testing, since it is the same images.
dataloader.train.mapper.augmentations[0] = L(ResizeKeepRatio)(short_edge=320, max_size=640)
dataloader.test.mapper.augmentations[0] = L(ResizeKeepRatio)(short_edge=320, max_size=640)

dataloader.train.total_batch_size = 2
dataloader.evaluator.append(pictures)
