"""Another config, whose process is killed when the fraction ``train.stop_at`` of it is done."""

import os
from pathlib import Path

from detectron2.config import LazyCall as L, LazyConfig

from tests.tools.toy_project import KillingSchedule

_path = os.environ.get("STOP_CONFIG", str(Path(__file__).with_name("toy_resume_config.py")))
_config = LazyConfig.load(_path)
model = _config.model
dataloader = _config.dataloader
optimizer = _config.optimizer
train = _config.train
lr_multiplier = L(KillingSchedule)(schedule=_config.lr_multiplier, stop_at="${train.stop_at}")
