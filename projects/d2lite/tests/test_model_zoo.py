"""Built-in configs load, and build models once their backbone is one that d2lite has."""

import pytest
from detectron2 import model_zoo
from detectron2.config import LazyCall, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.utils.testing import reload_lazy_config
from torch import nn

CONFIGS = [
    "common/train.py",
    "common/optim.py",
    "common/coco_schedule.py",
    "common/data/constants.py",
    "common/data/coco.py",
    "common/data/coco_panoptic_separated.py",
    "common/models/mask_rcnn_fpn.py",
    "common/models/panoptic_fpn.py",
]


class PlainBackbone(Backbone):
    strides = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}

    def __init__(self, out_features):
        super().__init__()
        self.out_features = tuple(out_features)
        self.convs = nn.ModuleDict({k: nn.Conv2d(3, 4, 3, s, 1) for k, s in self.strides.items()})

    def forward(self, x):
        return {k: self.convs[k](x) for k in self.out_features}

    def output_shape(self):
        return {k: ShapeSpec(channels=4, stride=self.strides[k]) for k in self.out_features}


@pytest.mark.parametrize("path", CONFIGS)
def test_configs_load_and_save(path):
    cfg = model_zoo.get_config(path)
    assert len(cfg) > 0
    assert set(reload_lazy_config(cfg)) == set(cfg)
    assert model_zoo.get_config_file(path).endswith(path)


def test_values():
    train = model_zoo.get_config("common/train.py").train
    assert train.max_iter == 90000 and train.amp.enabled is False
    optim = model_zoo.get_config("common/optim.py")
    assert optim.AdamW.params.base_lr == optim.AdamW.lr == 1e-4 and optim.SGD.lr == 0.02
    data = model_zoo.get_config("common/data/coco.py").dataloader
    assert data.test.mapper.image_format == "BGR"
    data = model_zoo.get_config("common/data/coco_panoptic_separated.py").dataloader
    names = {evaluator.dataset_name for evaluator in data.evaluator}
    assert names == {"coco_2017_val_panoptic_separated"} and len(data.evaluator) == 3


@pytest.mark.parametrize("length, drops", [(1, (2 / 3, 8 / 9)), (3, (7 / 9, 25 / 27))])
def test_schedule(length, drops):
    cfg = model_zoo.get_config("common/coco_schedule.py")
    schedule = instantiate(cfg[f"lr_multiplier_{length}x"])
    for at, before, after in zip(drops, (1, 0.1), (0.1, 0.01), strict=True):
        assert schedule(at - 1e-4) == pytest.approx(before)
        assert schedule(at + 1e-4) == pytest.approx(after)
    assert schedule(0) == pytest.approx(0.001)


def test_the_default_backbone_is_detectron2_s():
    model = model_zoo.get_config("common/models/panoptic_fpn.py").model
    with pytest.raises(ImportError, match="not part of d2lite"):
        instantiate(model)


@pytest.mark.parametrize(
    "name, kind", [("mask_rcnn", "GeneralizedRCNN"), ("panoptic", "PanopticFPN")]
)
def test_models_build_on_another_backbone(name, kind):
    cfg = model_zoo.get_config(f"common/models/{name}_fpn.py").model
    cfg.backbone.bottom_up = LazyCall(PlainBackbone)(out_features=["res2", "res3", "res4", "res5"])
    cfg.backbone.out_channels = 8
    for part in (cfg.roi_heads.box_head, cfg.roi_heads.mask_head):
        part.input_shape.channels = 8
    cfg.proposal_generator.head.in_channels = 8
    cfg.roi_heads.box_head.fc_dims = [16]
    cfg.roi_heads.box_predictor.input_shape.channels = 16
    if name == "panoptic":
        assert cfg.sem_seg_head.input_shape.p3.channels == 8
        cfg.sem_seg_head.conv_dims = 32
    model = instantiate(cfg)
    assert type(model).__name__ == kind
    assert model.backbone.size_divisibility == 32


def test_wrong_names():
    with pytest.raises(RuntimeError, match="not available in Model Zoo.*common/optim.py"):
        model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml")
    with pytest.raises(RuntimeError, match="Pretrained model for common/train.py is not"):
        model_zoo.get_config("common/train.py", trained=True)
    with pytest.raises(RuntimeError, match="no trained models"):
        model_zoo.get_checkpoint_url("common/models/panoptic_fpn.py")
