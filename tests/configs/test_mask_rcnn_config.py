"""Mask R-CNN on LVT: the config, its parts, and a training on a tree in COCO's layout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data.datasets.coco import load_coco_json, register_coco_instances
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage

from lvt_d2.checkpoint import LVTCheckpointer
from lvt_d2.checkpoint.official import TABLES
from lvt_d2.engine import build
from lvt_d2.errors import DatasetFileNotFoundError
from tests.synthetic_coco import write_coco_instances

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/mask_rcnn_lvt.py")
SMALL = (
    "model.proposal_generator.pre_nms_topk=[100,50]",
    "model.proposal_generator.post_nms_topk=[50,20]",
    "model.roi_heads.batch_size_per_image=16",
    "model.roi_heads.box_pooler.sampling_ratio=2",
    "model.roi_heads.mask_pooler.sampling_ratio=2",
    "dataloader.train.mapper.augmentations.0.short_edge_length=[64,96]",
    "dataloader.test.mapper.augmentations.0.short_edge_length=96",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
)
LOSSES = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def cfg():
    return LazyConfig.apply_overrides(LazyConfig.load(CONFIG), list(SMALL))


@pytest.fixture(scope="module")
def model(cfg):
    torch.manual_seed(0)
    return instantiate(cfg.model)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_coco_instances(tmp_path_factory.mktemp("datasets"), n_train=5, n_val=3)


@pytest.fixture(scope="module")
def dicts(tree):
    json_file = str(tree / "annotations/instances_train2017.json")
    return load_coco_json(json_file, str(tree / "train2017"), "mask_rcnn_config_test")


def test_config_survives_saving(tmp_path, model):
    cfg = LazyConfig.load(CONFIG)
    assert set(cfg.keys()) == {"model", "dataloader", "optimizer", "lr_multiplier", "train"}
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    again = LazyConfig.load(str(tmp_path / "config.yaml"))
    assert LazyConfig.to_py(again) == LazyConfig.to_py(cfg)
    state = instantiate(again.model).state_dict()
    assert {n: t.shape for n, t in state.items()} == {
        n: t.shape for n, t in model.state_dict().items()
    }


def test_detectron2s_classes_in_the_published_sizes(model):
    panoptic = instantiate(LazyConfig.load(str(ROOT / "configs/panoptic_lvt.py")).model)
    assert type(model) is GeneralizedRCNN
    assert type(model.roi_heads.box_predictor) is FastRCNNOutputLayers
    assert count(model) == 5_118_356 == count(panoptic) - count(panoptic.sem_seg_head)
    shared = {n: p.shape for n, p in panoptic.named_parameters() if not n.startswith("sem_seg")}
    assert {n: p.shape for n, p in model.named_parameters()} == shared
    loaded = LazyConfig.load(str(ROOT / "configs/panoptic_lvt.py"))
    assert "sem_seg_head" in loaded.model, "configs that are loaded later are as before"


def test_one_override_reaches_all_parts(cfg):
    narrow = LazyConfig.load(CONFIG)
    LazyConfig.apply_overrides(
        narrow,
        [
            "model.backbone.out_channels=32",
            "model.roi_heads.num_classes=3",
            "model.roi_heads.box_head.fc_dims=[64,48]",
        ],
    )
    model = instantiate(narrow.model).eval()
    assert model.roi_heads.box_predictor.cls_score.weight.shape == (4, 48)
    assert model.roi_heads.mask_head.predictor.weight.shape[0] == 3
    with torch.no_grad():
        (result,) = model([{"image": torch.zeros(3, 64, 96), "height": 128, "width": 192}])
    assert result["instances"].image_size == (128, 192)


def test_training_step(cfg, dicts):
    """Every parameter learns from polygons, crowds are left out, images without objects too."""
    torch.manual_seed(0)
    model = instantiate(cfg.model).train()
    mapper = instantiate(cfg.dataloader.train.mapper)
    assert type(mapper) is DatasetMapper
    batch = [mapper(dicts[0]), mapper(dicts[1])]
    crowd = sum(a["iscrowd"] for a in dicts[0]["annotations"])
    assert crowd == 1 and len(batch[0]["instances"]) == len(dicts[0]["annotations"]) - 1
    with EventStorage():
        losses = model(batch)
        sum(losses.values()).backward()
        assert set(losses) == LOSSES
        assert all(p.grad is not None for p in model.parameters())
        empty = [mapper(dicts[-1])]
        assert not len(empty[0]["instances"])
        assert sum(model(empty).values()).isfinite()


def official_backbone() -> dict:
    """An ImageNet backbone under the official names, in the official layouts."""
    lvt = instantiate(LazyConfig.load(CONFIG).model.backbone.bottom_up).state_dict()
    state = {}
    for name, entry in TABLES["backbone"]().items():
        tensor = torch.rand_like(lvt[entry.name])
        if name.endswith("attn.weight.weight"):
            tensor = tensor.flatten(0, 1)[..., None, None]
        elif ".mlp.fc" in name and name.endswith("weight"):
            tensor = tensor[..., None, None]
        state[name] = tensor
    return state


def test_official_backbone_weights(cfg, tmp_path):
    state = official_backbone()
    torch.save({"state_dict": state}, tmp_path / "lvt.pth.tar")
    model = instantiate(cfg.model)
    before = model.backbone.fpn_lateral2.weight.clone()
    LVTCheckpointer(model).load(str(tmp_path / "lvt.pth.tar"))
    loaded = model.backbone.bottom_up.state_dict()
    for name, entry in TABLES["backbone"]().items():
        assert torch.equal(loaded[entry.name].flatten(), state[name].flatten()), name
    assert torch.equal(model.backbone.fpn_lateral2.weight, before)


def test_weights_of_the_panoptic_model(cfg, tmp_path):
    panoptic = instantiate(LazyConfig.load(str(ROOT / "configs/panoptic_lvt.py")).model)
    torch.save({"model": panoptic.state_dict()}, tmp_path / "panoptic.pth")
    model = instantiate(cfg.model)
    LVTCheckpointer(model).load(f"{tmp_path / 'panoptic.pth'}?matching_heuristics=True")
    expected = panoptic.state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in model.state_dict().items())


class Maps(torch.nn.Module):
    """The backbone's maps in a tuple."""

    def __init__(self, model: GeneralizedRCNN):
        super().__init__()
        self.backbone = model.backbone

    def forward(self, image):
        return tuple(self.backbone(image).values())


def test_parts_are_traced_and_scripted(model):
    """Of every part what Detectron2's classes allow; other sizes than those traced too."""
    backbone = torch.jit.trace(Maps(model.eval()), torch.rand(1, 3, 64, 96))
    image = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        features = model.backbone(image)
        for traced, eager in zip(backbone(image), features.values(), strict=True):
            torch.testing.assert_close(traced, eager, rtol=1e-3, atol=1e-4)
        head = torch.jit.script(model.proposal_generator.rpn_head)
        maps = list(features.values())
        for scripted, eager in zip(
            head(maps), model.proposal_generator.rpn_head(maps), strict=True
        ):
            torch.testing.assert_close(scripted, eager)
        box_head = torch.jit.script(model.roi_heads.box_head)
        regions = torch.rand(3, 96, 7, 7)
        torch.testing.assert_close(box_head(regions), model.roi_heads.box_head(regions))


class Detector(torch.nn.Module):
    """The whole model on one image, as tensors."""

    def __init__(self, model: GeneralizedRCNN):
        super().__init__()
        self.model = model

    def forward(self, image):
        (found,) = self.model.inference([{"image": image}], do_postprocess=False)
        return found.pred_boxes.tensor, found.scores, found.pred_classes, found.pred_masks


def test_whole_model_is_traced(model):
    torch.manual_seed(0)
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    detector = Detector(model.eval())
    with torch.no_grad():
        traced = torch.jit.trace(detector, 255 * torch.rand(3, 64, 96), check_trace=False)
        for size in ((64, 96), (80, 72)):
            image = 255 * torch.rand(3, *size)
            for a, b in zip(traced(image), detector(image), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
            assert len(a)


def test_given_boxes_get_masks(model):
    """``inference`` with detections of elsewhere, as test-time augmentation has them."""
    given = Instances((64, 96))
    given.pred_boxes = Boxes(torch.tensor([[4.0, 4.0, 40.0, 50.0]]))
    given.pred_classes = torch.tensor([7])
    with torch.no_grad():
        (result,) = model.eval().inference(
            [{"image": torch.zeros(3, 64, 96)}], detected_instances=[given], do_postprocess=False
        )
    assert result.pred_masks.shape == (1, 1, 28, 28)
    images = ImageList.from_tensors([torch.zeros(3, 64, 96)])
    assert images.tensor.shape[-2:] == (64, 96)


def run_tool(*arguments: str, datasets: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools/lazyconfig_train_net.py"), "--config-file", CONFIG]
    environment = os.environ | {"DETECTRON2_DATASETS": str(datasets), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "--num-gpus", "0", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )


def test_training_and_evaluation_by_the_tool(tree, tmp_path):
    """With the names of the config, on a tree where COCO is looked for."""
    done = run_tool(
        *SMALL,
        "train.max_iter=2",
        "train.log_period=1",
        "train.eval_period=0",
        "model.roi_heads.box_predictor.test_score_thresh=0.0",
        f"train.output_dir={tmp_path}",
        datasets=tree.parent,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    results = json.loads((tmp_path / "results.json").read_text())
    assert {"AP", "AP50", "APs"} <= set(results["bbox"]) & set(results["segm"])
    assert (tmp_path / "inference/coco_instances_results.json").is_file()
    rows = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert any(set(row) >= LOSSES for row in rows)


def test_missing_annotations_are_one_paragraph(tmp_path):
    cfg = LazyConfig.load(CONFIG)
    path = str(tmp_path / "instances.json")
    register_coco_instances("mask_rcnn_missing", {}, path, str(tmp_path))
    cfg.dataloader.train.dataset.names = "mask_rcnn_missing"
    with pytest.raises(DatasetFileNotFoundError, match="instances.json, which does not exist"):
        build(cfg.dataloader.train, "dataloader.train")


def test_classes_of_the_sets():
    cfg = LazyConfig.load(CONFIG)
    for split in ("train", "test"):
        metadata = MetadataCatalog.get(cfg.dataloader[split].dataset.names)
        assert len(metadata.thing_classes) == cfg.model.roi_heads.num_classes
