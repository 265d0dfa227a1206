"""COCO's semantic labels, derived from the panoptic PNGs, with ADE20K's pipeline.

Class 0 is all things, 1..53 are stuff, as in the panoptic models. For 133 classes, one for every
category: ``lvt_coco_2017_train_semantic`` and ``lvt_coco_2017_val_semantic``.
"""

from .ade20k_semantic import dataloader

dataloader.train.dataset.names = "lvt_coco_2017_train_panoptic"
dataloader.test.dataset.names = "lvt_coco_2017_val_panoptic"
