"""The generated shapes (datasets/make_shapes.py) at their own size, 9 classes: things, then stuff.

8 images per iteration.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from lvt_d2.data import ResizeKeepRatio

from .ade20k_semantic import dataloader

dataloader.train.dataset.names = "shapes_train_semantic"
dataloader.test.dataset.names = "shapes_val_semantic"

# Made at 160 pixels, and shown at that size: a shape's scale jitters in the scenes already.
dataloader.train.mapper.augmentations = [
    L(ResizeKeepRatio)(short_edge=160, max_size=160),
    L(T.RandomFlip)(prob=0.5, horizontal=True),
]
dataloader.test.mapper.augmentations[0] = L(ResizeKeepRatio)(short_edge=160, max_size=160)

dataloader.train.total_batch_size = 8
dataloader.test.batch_size = 4
