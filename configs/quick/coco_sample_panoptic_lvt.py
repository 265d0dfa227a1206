"""Fits a handful of COCO images from nothing: shows that the real path learns, on a CPU."""

from ..common.data.coco_sample_panoptic import dataloader
from ..common.models.panoptic_fpn_lvt import model
from ..common.optim import AdamW as optimizer
from ..common.schedule import lr_multiplier_quick as lr_multiplier
from ..common.train import train

del dataloader.train.mapper.augmentations[1]  # no flip: what is fitted is what is tested
model.proposal_generator.pre_nms_topk = (500, 300)
model.proposal_generator.post_nms_topk = (300, 150)
# Half the usual size, as the images are: the smallest things are 10 pixels wide.
model.proposal_generator.anchor_generator.sizes = ((16,), (32,), (64,), (128,), (256,))
model.roi_heads.box_pooler.sampling_ratio = 2
model.roi_heads.mask_pooler.sampling_ratio = 2
model.roi_heads.batch_size_per_image = 64
model.roi_heads.positive_fraction = 0.5
optimizer.lr = 1e-3
# The untrained semantic head's gradients are huge; with 0.999 AdamW remembers them for too long.
optimizer.betas = (0.9, 0.95)
train.max_iter = 340
train.log_period = 10
train.eval_period = 0
