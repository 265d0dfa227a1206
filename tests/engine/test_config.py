from pathlib import Path

import pytest
from detectron2.config import LazyConfig
from omegaconf import OmegaConf

from lvt_d2.engine import apply_overrides, load_config
from lvt_d2.errors import ConfigError, ConfigFileNotFoundError


@pytest.fixture
def config():
    return OmegaConf.create(
        {
            "model": {"backbone": {"out_channels": 96, "sizes": [1, 2]}, "copy": "${.backbone}"},
            "train": {"max_iter": 10, "seed": None, "amp": {"enabled": False}},
            "needed": "???",
            "augmentations": [{"scale": 1.0}],
        }
    )


def test_overrides_change_values(config):
    overrides = [
        "model.backbone.out_channels=128",
        "train.seed=7",
        "train.amp.enabled=True",
        "needed=3",
        "model.backbone.sizes=[4,5,6]",
        "augmentations.0.scale=0.5",
        "train={max_iter: 5}",
    ]
    assert apply_overrides(config, overrides) is config
    assert config.model.backbone.out_channels == 128
    assert config.train.seed == 7 and config.train.amp.enabled is True
    assert config.needed == 3 and config.model.backbone.sizes == [4, 5, 6]
    assert config.augmentations[0].scale == 0.5
    assert config.train.max_iter == 5


@pytest.mark.parametrize(
    ("override", "close"),
    [
        ("train.max_itr=3", "train.max_iter"),
        ("max_iter=3", "train.max_iter"),
        ("model.backbone.out_channel=3", "model.backbone.out_channels"),
        ("modle.backbone.out_channels=3", "model.backbone.out_channels"),
        ("augmentations.3.scale=3", "augmentations.0.scale"),
        ("train.amp.enabled.really=3", "train.amp.enabled"),
    ],
)
def test_unknown_keys_name_the_closest(config, override, close):
    before = OmegaConf.to_yaml(config)
    with pytest.raises(ConfigError) as error:
        apply_overrides(config, [override])
    assert repr(override.partition("=")[0]) in str(error.value)
    assert close in str(error.value) and f"+{override}" in str(error.value)
    assert OmegaConf.to_yaml(config) == before


def test_plus_adds(config):
    apply_overrides(config, ["+model.backbone.drop=0.1", "++train.new={a: 1}", "+train.max_iter=4"])
    assert config.model.backbone.drop == 0.1 and config.train.new.a == 1
    assert config.train.max_iter == 4


@pytest.mark.parametrize(
    "override", ["train.max_iter", "a b=c=d", "=3", "~train.seed", "+train.max_iter.x=1"]
)
def test_no_overrides_at_all(config, override):
    with pytest.raises(ConfigError, match="override"):
        apply_overrides(config, [override])


@pytest.mark.parametrize("value", ["3", "abc", "[1,2]", "True"])
def test_parts_are_not_replaced_by_values(config, value):
    with pytest.raises(ConfigError, match=r"replace a part.*model.backbone.out_channels") as error:
        apply_overrides(config, [f"model.backbone={value}"])
    assert f"++model.backbone={value}" in str(error.value)
    assert config.model.backbone.out_channels == 96
    apply_overrides(config, ["++model.backbone=3"])
    assert config.model.backbone == 3


def test_parts_may_be_left_out_or_shared(config):
    apply_overrides(config, ["model.backbone={out_channels: 4}", "train.amp=null"])
    assert config.model.backbone == {"out_channels": 4, "sizes": [1, 2]}
    assert config.train.amp is None
    apply_overrides(config, ["model.backbone=${train}"])
    assert config.model.backbone.max_iter == 10


def test_options_behind_overrides(config):
    with pytest.raises(ConfigError, match="--resume"):
        apply_overrides(config, ["train.seed=1", "--resume"])


TRAIN = LazyConfig.load(str(Path(__file__).parents[2] / "configs/common/train.py")).train
SECTIONS = "model = dict(a=1)\ndataloader = dict()\noptimizer = dict()\nlr_multiplier = dict()\n"


def test_load_python_and_yaml(tmp_path):
    file = tmp_path / "c.py"
    file.write_text(SECTIONS + f"train = {OmegaConf.to_object(TRAIN)}\n")
    config = load_config(str(file), ["train.max_iter=4"])
    assert config.train.max_iter == 4
    LazyConfig.save(config, str(tmp_path / "c.yaml"))
    assert load_config(str(tmp_path / "c.yaml")).train.max_iter == 4
    keep_all = "train.checkpointer.max_to_keep=null"
    assert load_config(str(file), [keep_all]).train.checkpointer.max_to_keep is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.max_iter=0", "train.max_iter is 0; expected .*1 or more"),
        ("train.max_iter=1e3", "train.max_iter is 1000.0"),
        ("train.eval_period=-1", "train.eval_period is -1; expected .*0 or more"),
        ("train.log_period=True", "train.log_period is True"),
        ("train.checkpointer.period=0", "train.checkpointer.period is 0; expected .*1 or more"),
        ("train.checkpointer.period=null", "train.checkpointer.period is None"),
        ("train.output_dir=3", "train.output_dir is 3; expected a path"),
        ("optimizer=null", "does not define optimizer"),
        ("train.amp=null", "train.amp.enabled is None; expected True or False"),
        ("train.amp.enabled=yes", "train.amp.enabled is 'yes'"),
        ("train.ddp=null", "train.ddp is None; expected arguments"),
        ("train.seed=abc", "train.seed is 'abc'; expected a whole number"),
        ("train.seed=null", "train.seed is None"),
        ("train.checkpointer.max_to_keep=0", "train.checkpointer.max_to_keep is 0"),
        ("train.device=tpu", "train.device is 'tpu'"),
        ("train.hooks=3", "train.hooks is 3; expected a list of hooks"),
        ("train.max_iter=${nothing}", "train of .* can't be read: .*nothing"),
    ],
)
def test_values_of_train(tmp_path, override, words):
    file = tmp_path / "c.py"
    file.write_text(SECTIONS + f"train = {OmegaConf.to_object(TRAIN)}\n")
    with pytest.raises(ConfigError, match=words):
        load_config(str(file), [override])


def test_a_train_section_needs_its_keys(tmp_path):
    file = tmp_path / "c.py"
    file.write_text(SECTIONS + "train = dict(max_iter=3)\n")
    with pytest.raises(ConfigError, match="lacks output_dir, init_checkpoint"):
        load_config(str(file))


def test_missing_files_name_their_neighbours(tmp_path):
    for name in ("panoptic_lvt.py", "mask_rcnn_lvt.py"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigFileNotFoundError, match="panoptic_lvt.py") as error:
        load_config(str(tmp_path / "panoptic_lv.py"))
    assert isinstance(error.value, FileNotFoundError) and isinstance(error.value, ConfigError)
    with pytest.raises(ConfigFileNotFoundError, match="has none"):
        load_config(str(tmp_path / "nowhere" / "a.py"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.py", "model = (", "SyntaxError"),
        ("a.py", "import nothing_of_this_name", "nothing_of_this_name.*line 1"),
        ("a.py", "\n\nraise KeyError('k')", "KeyError.*line 3"),
        ("a.py", SECTIONS + "train = 3", "does not define train"),
        ("a.yaml", "model: 3", "does not define model, dataloader"),
        ("a.yaml", "- 3", "a.yaml "),
        ("a.yaml", "3", "a.yaml "),
        ("a.yaml", "", "a.yaml "),
        ("a.py", "model = dict()", "does not define dataloader, optimizer"),
        ("a.yaml", "model: [", "can't be loaded"),
        ("a.txt", "", "expected a file that ends in"),
    ],
)
def test_bad_files(tmp_path, name, content, words):
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(ConfigError, match=words) as error:
        load_config(str(file))
    assert "\n" not in str(error.value)


def test_lines_of_files_with_a_relative_path(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text("\nmodel = 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"ZeroDivisionError: .*\(line 2 of .*a\.py\)"):
        load_config("a.py")


def test_folder_and_nothing(tmp_path):
    with pytest.raises(ConfigError, match="a folder"):
        load_config(str(tmp_path))
    with pytest.raises(ConfigError, match="--config-file"):
        load_config("")
