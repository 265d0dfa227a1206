"""COCO instance segmentation, Mask R-CNN on LVT, 3x schedule on 8 GPUs x 8 images.

The panoptic recipe without its stuff; nothing is published to compare with. ImageNet weights of
the backbone: ``train.init_checkpoint=FILE``.
"""

from .common.data.coco_instances import dataloader
from .common.models.mask_rcnn_lvt import model
from .common.optim import AdamW as optimizer
from .common.schedule import lr_multiplier_3x as lr_multiplier, max_iter_3x
from .common.train import train

train.max_iter = max_iter_3x
