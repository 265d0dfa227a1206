"""Another config, whose process is killed when the loader is asked for batch ``train.stop_at``."""

import os
from pathlib import Path

from detectron2.config import LazyCall as L, LazyConfig

from tests.tools.toy_project import KillingLoader

_path = os.environ.get("STOP_CONFIG", str(Path(__file__).with_name("toy_resume_config.py")))
_config = LazyConfig.load(_path)
model = _config.model
dataloader = _config.dataloader
optimizer = _config.optimizer
lr_multiplier = _config.lr_multiplier
train = _config.train
dataloader.train = L(KillingLoader)(loader=dataloader.train, stop_at="${train.stop_at}")
