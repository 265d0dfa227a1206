"""COCO semantic segmentation from the panoptic PNGs, SegFormer on LVT, trained as on ADE20K.

54 classes in the order of the panoptic recipe: 0 for all things, then the 53 kinds of stuff.
"""

from .common.data.coco_stuff_semantic import dataloader
from .segformer_lvt import lr_multiplier, model, optimizer, train

model.sem_seg_head.num_classes = 54
