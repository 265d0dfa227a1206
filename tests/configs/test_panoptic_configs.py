"""Configs load, survive saving, and describe the published model."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(p for p in (ROOT / "configs").rglob("*.py") if "common" not in p.parts)
KEYS = {"model", "dataloader", "optimizer", "lr_multiplier", "train"}


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT / "configs")))
def test_config_loads_instantiates_and_survives_saving(path, tmp_path):
    cfg = LazyConfig.load(str(path))
    assert KEYS <= set(cfg.keys())
    model = instantiate(cfg.model)
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    again = LazyConfig.load(str(tmp_path / "config.yaml"))
    assert LazyConfig.to_py(again) == LazyConfig.to_py(cfg)
    assert count(instantiate(again.model)) == count(model)


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
