"""COCO panoptic segmentation, Panoptic FPN on LVT, 3x schedule on 8 GPUs x 8 images.

Published: 42.8 PQ on val2017. ImageNet weights of the backbone: ``train.init_checkpoint=FILE``.
"""

from .common.data.coco_panoptic import dataloader
from .common.models.panoptic_fpn_lvt import model
from .common.optim import AdamW as optimizer
from .common.schedule import lr_multiplier_3x as lr_multiplier, max_iter_3x
from .common.train import train

train.max_iter = max_iter_3x
