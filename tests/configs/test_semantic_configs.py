"""Configs of semantic segmentation: they load, survive saving, and are the published training."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import MetadataCatalog
from detectron2.solver import LRMultiplier

from lvt_d2.checkpoint.official import TABLES
from lvt_d2.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "segformer_lvt",
    "semantic_fpn_lvt",
    "coco_stuff_segformer_lvt",
    "quick/shapes_segformer_lvt",
)


def load(name: str):
    return LazyConfig.load(str(ROOT / f"configs/{name}.py"))


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def build_optimizer(cfg, model: torch.nn.Module) -> torch.optim.Optimizer:
    cfg.optimizer.params.model = model
    return instantiate(cfg.optimizer)


@pytest.fixture(scope="module")
def segformer():
    return instantiate(load("segformer_lvt").model)


@pytest.fixture(scope="module")
def facts(goldens):
    return json.loads((goldens / "official/segdata.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_config_loads_instantiates_and_survives_saving(name, tmp_path):
    cfg = load(name)
    assert set(cfg.keys()) == {"model", "dataloader", "optimizer", "lr_multiplier", "train"}
    model = instantiate(cfg.model)
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    again = LazyConfig.load(str(tmp_path / "config.yaml"))
    assert LazyConfig.to_py(again) == LazyConfig.to_py(cfg)
    twin = instantiate(again.model)
    assert count(twin) == count(model)
    groups = [build_optimizer(c, m).param_groups for c, m in ((cfg, model), (again, twin))]
    described = [
        [(len(g["params"]), g["lr"], g["weight_decay"]) for g in optimizer] for optimizer in groups
    ]
    assert described[0] == described[1]


@pytest.mark.parametrize("name", NAMES)
def test_model_and_data_have_the_same_classes(name):
    cfg = load(name)
    for dataset in (cfg.dataloader.train.dataset, cfg.dataloader.test.dataset):
        assert len(MetadataCatalog.get(dataset.names).stuff_classes) == dataset.num_classes
    cfg.model.sem_seg_head.num_classes = 3
    for split in ("train", "test"):
        with pytest.raises(ConfigError, match="3"):
            instantiate(cfg.dataloader[split])


@pytest.mark.parametrize("name", NAMES)
def test_training_and_inference_of_the_config(name):
    cfg = load(name)
    classes = cfg.model.sem_seg_head.num_classes
    model = instantiate(cfg.model).train()
    labels = torch.randint(0, classes, (64, 96))
    sample = {"image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)}
    losses = model([sample | {"sem_seg": labels}] * 2)
    losses["loss_sem_seg"].backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        (output,) = model.eval()([sample | {"height": 50, "width": 41}])
    assert output["sem_seg"].shape == (50, 41) and output["sem_seg"].max() < classes


def test_published_sizes(segformer):
    assert count(segformer) == 3_870_586
    assert count(segformer.backbone) == 3_429_092
    assert count(segformer.sem_seg_head) == 441_494
    semantic_fpn = instantiate(load("semantic_fpn_lvt").model)
    assert count(semantic_fpn) == 7_572_858
    assert count(semantic_fpn.backbone.bottom_up) == 3_429_092


def test_one_override_reaches_all_parts():
    cfg = load("semantic_fpn_lvt")
    overrides = ["model.backbone.out_channels=64", "model.sem_seg_head.conv_dims=32"]
    model = instantiate(LazyConfig.apply_overrides(cfg, overrides).model)
    assert model.sem_seg_head.p5[0].weight.shape == (32, 64, 3, 3)
    cfg = load("segformer_lvt")
    overrides = ["model.backbone.embed_dims=[32,64,160,256]", "model.backbone.num_heads=[1,2,5,8]"]
    model = instantiate(LazyConfig.apply_overrides(cfg, overrides).model)
    assert model.sem_seg_head.linear_c1.proj.weight.shape == (256, 32)


def test_views_can_be_asked_for_on_the_command_line():
    cfg = load("segformer_lvt")
    overrides = [
        "model.flip=True",
        "model.scales=[0.5,0.75,1.0]",
        "model.window=512",
        "model.window_stride=[341,300]",
        "model.labels_only=False",
    ]
    model = instantiate(LazyConfig.apply_overrides(cfg, overrides).model)
    assert (model.flip, model.scales, model.labels_only) == (True, (0.5, 0.75, 1.0), False)
    assert (model.window, model.window_stride) == ((512, 512), (341, 300))


def test_rates_and_decay(segformer):
    """Of every parameter, as the recorded numbers have them, also where those are not at hand."""
    optimizer = build_optimizer(load("segformer_lvt"), segformer)
    settings = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in segformer.named_parameters():
        group = settings.pop(id(parameter))
        in_head = name.startswith("sem_seg_head.")
        assert group["lr"] == pytest.approx(6e-4 if in_head else 6e-5, rel=1e-12), name
        assert group["weight_decay"] == (0.01 if in_head or "norm" not in name else 0), name
    assert not settings


def test_recorded_rates_and_decay(segformer, facts):
    optimizer = build_optimizer(load("segformer_lvt"), segformer)
    settings = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    parameters = dict(segformer.named_parameters())
    table = TABLES["segformer"]()
    for official, (lr, decay) in facts["optimizer"].items():
        ours = table[official].name
        if ours is None:  # a layer that the official code never uses
            continue
        group = settings.pop(id(parameters.pop(ours)))
        assert group["lr"] == pytest.approx(lr, rel=1e-12), official
        assert group["weight_decay"] == decay, official
    assert not settings and not parameters
    for name, value in facts["optimizer_defaults"].items():
        found = optimizer.defaults.get(name, value)
        assert (list(found) if name == "betas" else found) == value, name


def test_overriding_the_rate_moves_all_groups(segformer):
    cfg = LazyConfig.apply_overrides(load("segformer_lvt"), ["optimizer.lr=1e-3"])
    rates = {group["lr"] for group in build_optimizer(cfg, segformer).param_groups}
    assert sorted(rates) == pytest.approx([1e-3, 1e-2])


def rate_at(cfg, iteration: int) -> float:
    """Learning rate of the first group, as the training's scheduler sets it."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    group = {"params": [parameter], "lr": cfg.optimizer.lr, "initial_lr": cfg.optimizer.lr}
    optimizer = torch.optim.AdamW([group])
    multiplier = instantiate(cfg.lr_multiplier)
    LRMultiplier(optimizer, multiplier, cfg.train.max_iter, last_iter=iteration - 1)
    return optimizer.param_groups[0]["lr"]


def test_recorded_schedule(facts):
    cfg = load("segformer_lvt")
    assert cfg.train.max_iter == 160_000
    for iteration, lr in facts["lr_schedule_base6e-5"]:
        assert rate_at(cfg, iteration) == pytest.approx(lr, rel=1e-9), iteration


def test_schedules():
    cfg = load("segformer_lvt")
    for iteration, expected in ((0, 6e-11), (750, 3e-5 * 159_250 / 160_000), (80_000, 3e-5)):
        assert rate_at(cfg, iteration) == pytest.approx(expected, rel=1e-5)
    cfg = load("semantic_fpn_lvt")
    assert cfg.train.max_iter == 80_000 and cfg.optimizer.weight_decay == 1e-4
    for iteration, expected in ((0, 1e-4), (40_000, 1e-4 * 0.5**0.9), (79_999, 1e-4 / 80_000**0.9)):
        assert rate_at(cfg, iteration) == pytest.approx(expected)
