"""The quickstart: Panoptic FPN on LVT, trained from nothing on generated scenes of 160 pixels.

Small batches, few boxes and coarse masks: made for two CPU cores and a few minutes.
"""

from ..common.data.shapes_panoptic import dataloader
from ..common.models.panoptic_fpn_lvt import model
from ..common.optim import AdamW as optimizer
from ..common.schedule import lr_multiplier_quick as lr_multiplier
from ..common.train import train

model.proposal_generator.pre_nms_topk = (500, 300)
model.proposal_generator.post_nms_topk = (200, 100)
model.roi_heads.num_classes = 5
model.roi_heads.batch_size_per_image = 32
model.roi_heads.positive_fraction = 0.5
model.roi_heads.box_pooler.sampling_ratio = 2
model.roi_heads.mask_pooler.sampling_ratio = 2
model.roi_heads.mask_pooler.output_size = 7
model.roi_heads.mask_head.input_shape.width = 7
model.roi_heads.mask_head.input_shape.height = 7
model.sem_seg_head.num_classes = 5  # 4 stuff classes, and class 0 for all things
model.combine_stuff_area_thresh = 64

dataloader.train.total_batch_size = 4
optimizer.lr = 1e-3
# The untrained semantic head's gradients are huge; with 0.999 AdamW remembers them for too long.
optimizer.betas = (0.9, 0.95)
train.max_iter = 500
train.log_period = 20
train.eval_period = 0
