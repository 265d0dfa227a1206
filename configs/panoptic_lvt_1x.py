"""COCO panoptic segmentation, Panoptic FPN on LVT, 1x schedule on 8 GPUs x 8 images."""

from .common.schedule import lr_multiplier_1x as lr_multiplier, max_iter_1x
from .panoptic_lvt import dataloader, model, optimizer, train

optimizer.lr = 4e-4
train.max_iter = max_iter_1x
