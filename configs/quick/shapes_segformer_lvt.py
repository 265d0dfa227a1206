"""SegFormer on LVT, trained from nothing on generated scenes of 160 pixels, in minutes."""

from ..common.data.shapes_semantic import dataloader
from ..common.models.segformer_lvt import model
from ..common.optim import AdamW_segformer as optimizer
from ..common.schedule import lr_multiplier_quick as lr_multiplier
from ..common.train import train

model.sem_seg_head.num_classes = 9  # 5 things and 4 kinds of stuff

dataloader.train.total_batch_size = 4
optimizer.lr = 1e-3
optimizer.params.rules.sem_seg_head.lr_factor = 1.0  # the backbone is as new as the head
# The untrained head's gradients are huge; with 0.999 AdamW remembers them for too long.
optimizer.betas = (0.9, 0.95)
train.max_iter = 1200
train.log_period = 20
train.eval_period = 0
