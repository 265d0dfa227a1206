"""The quickstart: Panoptic FPN on LVT, trained from nothing on generated scenes of 160 pixels."""

from ..common.data.shapes_panoptic import dataloader
from ..common.models.panoptic_fpn_lvt import model
from ..common.optim import AdamW as optimizer
from ..common.schedule import lr_multiplier_quick as lr_multiplier
from ..common.train import train

model.proposal_generator.pre_nms_topk = (500, 300)
model.proposal_generator.post_nms_topk = (200, 100)
model.roi_heads.num_classes = 5
model.roi_heads.batch_size_per_image = 32
model.sem_seg_head.num_classes = 5  # 4 stuff classes, and class 0 for all things
model.combine_stuff_area_thresh = 64
optimizer.lr = 1e-3
train.max_iter = 250
train.log_period = 10
train.eval_period = 0
