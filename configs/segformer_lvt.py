"""ADE20K semantic segmentation, SegFormer on LVT, 160k iterations on 8 GPUs x 2 images.

Published: 39.3 mIoU. ImageNet weights of the backbone: ``train.init_checkpoint=FILE``.
"""

from .common.data.ade20k_semantic import dataloader
from .common.models.segformer_lvt import model
from .common.optim import AdamW_segformer as optimizer
from .common.schedule import lr_multiplier_segformer as lr_multiplier, max_iter_segformer
from .common.train import train

train.max_iter = max_iter_segformer
