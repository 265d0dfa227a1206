"""Configs load, survive saving, and describe the published model."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import MetadataCatalog

from lvt_d2.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(p for p in (ROOT / "configs").rglob("*panoptic*.py") if "common" not in p.parts)
KEYS = {"model", "dataloader", "optimizer", "lr_multiplier", "train"}


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT / "configs")))
def test_config_loads_instantiates_and_survives_saving(path, tmp_path):
    cfg = LazyConfig.load(str(path))
    assert set(cfg.keys()) == KEYS
    model = instantiate(cfg.model)
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    again = LazyConfig.load(str(tmp_path / "config.yaml"))
    assert LazyConfig.to_py(again) == LazyConfig.to_py(cfg)
    assert count(instantiate(again.model)) == count(model)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT / "configs")))
def test_model_and_data_have_the_same_classes(path, tmp_path):
    cfg = LazyConfig.load(str(path))
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    for config in (cfg, LazyConfig.load(str(tmp_path / "config.yaml"))):
        for dataset in (config.dataloader.train.dataset, config.dataloader.test.dataset):
            metadata = MetadataCatalog.get(dataset.names)
            assert dataset.num_things == len(metadata.thing_classes)
            assert dataset.num_stuff == len(metadata.stuff_classes)
        LazyConfig.apply_overrides(
            config, ["model.roi_heads.num_classes=2", "model.sem_seg_head.num_classes=3"]
        )
        for split in ("train", "test"):
            with pytest.raises(ConfigError, match=r"roi_heads.* is 2, .*sem_seg_head.* is 3, "):
                instantiate(config.dataloader[split])


def test_comparison_of_classes_can_be_turned_off():
    cfg = LazyConfig.load(str(ROOT / "configs/panoptic_lvt.py"))
    LazyConfig.apply_overrides(
        cfg, ["dataloader.train.dataset.num_things=null", "dataloader.train.dataset.num_stuff=null"]
    )
    assert cfg.dataloader.test.dataset.num_things is cfg.dataloader.test.dataset.num_stuff is None


def test_configs_load_where_the_visualizer_does_not():
    script = (
        "import sys, lvt_d2\n"
        "from detectron2.config import LazyConfig\n"
        "sys.modules['detectron2.utils.visualizer'] = None  # as where OpenCV is missing\n"
        "for path in sys.argv[1:]: LazyConfig.load(path)\n"
    )
    command = [sys.executable, "-c", script, *map(str, CONFIGS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_published_sizes():
    model = instantiate(LazyConfig.load(str(ROOT / "configs/panoptic_lvt.py")).model)
    heads = model.roi_heads
    assert count(model) == 5_349_770
    assert count(model.backbone.bottom_up) == 3_429_092
    assert count(model.backbone) - count(model.backbone.bottom_up) == 384_768
    assert count(model.proposal_generator) == 84_495
    assert count(heads.box_head) == 778_560
    assert count(heads.box_predictor) == 64_561
    assert count(heads.mask_head) == 376_880
    assert count(model.sem_seg_head) == 231_414


def test_one_override_reaches_all_heads():
    cfg = LazyConfig.load(str(ROOT / "configs/panoptic_lvt.py"))
    cfg = LazyConfig.apply_overrides(cfg, ["model.backbone.out_channels=128", "train.max_iter=10"])
    model = instantiate(cfg.model).eval()
    assert cfg.train.max_iter == 10
    with torch.no_grad():
        (result,) = model([{"image": torch.zeros(3, 64, 96)}])
    assert result["sem_seg"].shape == (54, 64, 96)


def test_schedules():
    for name, epochs, drops, rate in (
        ("panoptic_lvt", 36, (24, 33), 3e-4),
        ("panoptic_lvt_1x", 12, (8, 11), 4e-4),
    ):
        cfg = LazyConfig.load(str(ROOT / f"configs/{name}.py"))
        assert cfg.optimizer.lr == rate
        multiplier = instantiate(cfg.lr_multiplier)
        total = cfg.train.max_iter
        assert multiplier(0) == pytest.approx(0.001)
        assert multiplier(250 / total) == pytest.approx(0.5005)
        assert multiplier(500 / total) == pytest.approx(1)
        for drop, (before, after) in zip(drops, ((1, 0.1), (0.1, 0.01)), strict=True):
            iteration = drop * total / epochs
            assert multiplier((iteration - 1) / total) == pytest.approx(before)
            assert multiplier((iteration + 1) / total) == pytest.approx(after)


def test_all_parameters_are_decayed():
    cfg = LazyConfig.load(str(ROOT / "configs/panoptic_lvt.py"))
    model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-4}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 213
