"""Multi-step schedules for COCO; 1x is 90,000 iterations of 16 images, about 12 epochs."""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler


def default_X_scheduler(num_X):
    """Schedule of length `num_X`: long ones keep their two drops 60,000 and 20,000 from the end."""
    total = num_X * 90000
    # Milestones count relative to the last: short schedules all drop at 2/3 and 8/9.
    milestones = [60000, 80000, 90000] if num_X <= 2 else [total - 60000, total - 20000, total]
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=milestones),
        warmup_length=1000 / total,
        warmup_method="linear",
        warmup_factor=0.001,
    )


lr_multiplier_1x = default_X_scheduler(1)
lr_multiplier_2x = default_X_scheduler(2)
lr_multiplier_3x = default_X_scheduler(3)
lr_multiplier_6x = default_X_scheduler(6)
lr_multiplier_9x = default_X_scheduler(9)
