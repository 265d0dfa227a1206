"""Config whose training is random in every way that a resumed run could go astray."""

from detectron2.config import LazyCall as L

from lvt_d2.data import build_train_loader
from tests.tools import toy_config
from tests.tools.toy_project import JitteredImages, toy_dicts

model = toy_config.model
dataloader = toy_config.dataloader
optimizer = toy_config.optimizer
lr_multiplier = toy_config.lr_multiplier
train = toy_config.train

model.dropout = 0.3
dataloader["train"] = L(build_train_loader)(
    dataset=L(toy_dicts)(count=23),
    mapper=L(JitteredImages)(seconds=0.0),
    total_batch_size=4,
    aspect_ratio_grouping=True,
    num_workers=0,
)
train.seed = -1  # every run is another one, but for those that are resumed
train.max_iter = 40
train.eval_period = 7
train.log_period = 5
train.checkpointer = dict(period=3, max_to_keep=2)
train.ema = dict(enabled=True, decay=0.9, evaluate=True)
train.best_checkpointer = dict(val_metric="sums/error", mode="min")
