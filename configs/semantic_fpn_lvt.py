"""ADE20K semantic segmentation, Semantic FPN on LVT, 80k iterations of 16 images.

The recipe under which backbones such as PVT are compared. ImageNet weights of the backbone:
``train.init_checkpoint=FILE``.
"""

from .common.data.ade20k_semantic import dataloader
from .common.models.semantic_fpn_lvt import model
from .common.optim import AdamW as optimizer
from .common.schedule import lr_multiplier_semantic_fpn as lr_multiplier, max_iter_semantic_fpn
from .common.train import train

optimizer.lr = 1e-4
train.max_iter = max_iter_semantic_fpn
