"""Learning rate over the course of a training, as multipliers of the base rate."""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    PolynomialDecayParamScheduler,
)

from lvt_d2.engine.optimizer import DecayedWarmup

# 117,266 of train2017's 118,287 images hold a thing; 64 images an iteration.
ITERATIONS_PER_EPOCH = 1833
WARMUP_ITERATIONS = 500


def coco_schedule(epochs: int, drops: tuple[int, ...]):
    """Two drops by a factor of 10 at the given epochs, after a linear warm-up from 1e-3."""
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(
            values=(1.0, 0.1, 0.01), milestones=drops, num_updates=epochs
        ),
        warmup_length=WARMUP_ITERATIONS / (epochs * ITERATIONS_PER_EPOCH),
        warmup_method="linear",
        warmup_factor=0.001,
    )


max_iter_1x = 12 * ITERATIONS_PER_EPOCH
max_iter_3x = 36 * ITERATIONS_PER_EPOCH
lr_multiplier_1x = coco_schedule(12, (8, 11))
lr_multiplier_3x = coco_schedule(36, (24, 33))

# ADE20K: down to 0 at the last iteration, in a straight line for SegFormer.
max_iter_segformer = 160_000
lr_multiplier_segformer = L(DecayedWarmup)(
    scheduler=L(PolynomialDecayParamScheduler)(base_value=1.0, power=1.0),
    warmup_length=1500 / max_iter_segformer,
    warmup_factor=1e-6,
)
max_iter_semantic_fpn = 80_000
lr_multiplier_semantic_fpn = L(PolynomialDecayParamScheduler)(base_value=1.0, power=0.9)

# For runs of minutes: warm up for a tenth of the run, then down along a cosine.
lr_multiplier_quick = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.01),
    warmup_length=0.1,
    warmup_method="linear",
    warmup_factor=0.01,
)
