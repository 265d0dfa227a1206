"""Optimisers of the published recipes."""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver import get_default_optimizer_params

# One group: norms are decayed like all other weights (Detectron2's own recipes spare them).
AdamW = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(),  # params.model is set by the training tool
    lr=3e-4,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
)
