"""Optimisers of the published recipes."""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver import get_default_optimizer_params

from lvt_d2.engine.optimizer import get_params_by_name

# One group: norms are decayed like all other weights (Detectron2's own recipes spare them).
AdamW = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(),  # params.model is set by the training tool
    lr=3e-4,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
)

# SegFormer: norms of the backbone are not decayed; the head learns 10 times as fast, and all of it
# is decayed, its BatchNorm too. Detectron2's weight_decay_norm would spare that as well.
AdamW_segformer = L(torch.optim.AdamW)(
    params=L(get_params_by_name)(
        base_lr="${..lr}",
        rules=dict(
            norm=dict(weight_decay=0.0),
            sem_seg_head=dict(lr_factor=10.0),
        ),
    ),
    lr=6e-5,
    betas=(0.9, 0.999),
    weight_decay=0.01,
)
