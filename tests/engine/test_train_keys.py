import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lvt_d2.engine import load_config
from lvt_d2.engine.train_keys import ADDED, REQUIRED
from lvt_d2.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
DETECTRON2 = """
model = dict(a=1)
dataloader = dict()
optimizer = dict()
lr_multiplier = dict()
train = dict(
    output_dir="./output", init_checkpoint="", max_iter=10, device="cpu", eval_period=5,
    amp=dict(enabled=False), ddp=dict(), log_period=20,
    checkpointer=dict(period=5000, max_to_keep=100),
)
"""


@pytest.fixture
def detectron2s(tmp_path):
    """A config whose ``train`` has Detectron2's own keys alone."""
    path = tmp_path / "config.py"
    path.write_text(DETECTRON2)
    return str(path)


def test_configs_of_detectron2_get_defaults(detectron2s):
    train = load_config(detectron2s).train
    for key, default in ADDED.items():
        assert OmegaConf.create({"value": train[key]}).value == default, key
    train = load_config(detectron2s, ["train.ema.enabled=True", "train.accumulate=4"]).train
    assert train.ema.enabled and train.accumulate == 4 and train.ema.decay == 0.9999


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.accumulate=0", "train.accumulate is 0; expected a whole number of batches"),
        ("train.accumulate=1.5", "train.accumulate is 1.5"),
        ("train.ema.enabled=yes", "train.ema.enabled is 'yes'; expected True or False"),
        ("train.ema.decay=2", "train.ema.decay is 2; expected a number from 0 to 1"),
        ("train.best_checkpointer.mode=most", "mode is 'most'; expected max or min"),
        ("train.best_checkpointer.val_metric=3", "val_metric is 3; expected a name"),
    ],
)
def test_impossible_values(detectron2s, override, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(detectron2s, [override])


def test_keys_are_documented_where_they_are_looked_for():
    tool = (ROOT / "tools/lazyconfig_train_net.py").read_text().split('"""')[1]
    common = (ROOT / "configs/common/train.py").read_text()
    for key in (*REQUIRED, *ADDED):
        assert f"train.{key}" in tool, key
        assert f"{key}=" in common, key
    own = load_config(str(ROOT / "configs/panoptic_lvt.py")).train
    for key, default in ADDED.items():
        assert own[key] == default, key
