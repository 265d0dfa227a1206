"""Config of the toy project for the training tool."""

from pathlib import Path

import torch
from detectron2.config import LazyCall as L, LazyConfig
from detectron2.solver import get_default_optimizer_params
from fvcore.common.param_scheduler import LinearParamScheduler

from tests.tools.toy_project import TestLoader, ToyEvaluator, ToyModel, TrainLoader

model = L(ToyModel)()
dataloader = dict(
    train=L(TrainLoader)(batch_size=4, poison_at=-1, poison_rank=0),
    test=L(TestLoader)(count=10),
    evaluator=L(ToyEvaluator)(),
)
optimizer = L(torch.optim.SGD)(params=L(get_default_optimizer_params)(), lr=0.3, momentum=0.9)
lr_multiplier = L(LinearParamScheduler)(start_value=1.0, end_value=0.1)
train = LazyConfig.load(str(Path(__file__).parents[2] / "configs/common/train.py")).train
train.seed = 1
train.max_iter = 20
train.eval_period = 10
train.log_period = 5
train.checkpointer.period = 10
