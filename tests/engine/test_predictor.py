from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import transforms as T
from PIL import Image
from torch import nn

from lvt_d2.engine import Predictor, build_ema
from lvt_d2.errors import CheckpointError, ConfigError, DatasetError, DatasetFileNotFoundError

ROOT = Path(__file__).resolve().parents[2]


class _Means(nn.Module):
    """Mean colour of each image, and what it was called with."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.batches = []

    def forward(self, batch):
        assert not self.training and not torch.is_grad_enabled()
        self.batches.append([tuple(item["image"].shape) for item in batch])
        return [
            {
                "mean": self.scale * item["image"].float().mean(dim=(1, 2)),
                "size": (item["height"], item["width"]),
            }
            for item in batch
        ]


def _array(height, width, colour):
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3)).copy()


def _predictor(model=None, **options):
    augmentations = [T.ResizeShortestEdge(20, 100)]
    return Predictor(_Means() if model is None else model, augmentations, "RGB", **options)


def test_images_of_equal_size_share_batches():
    model = _Means().train()
    sizes = [(10, 20), (10, 10), (20, 40), (10, 20), (30, 30), (10, 20)]
    images = [_array(h, w, (0, 0, 10 * i)) for i, (h, w) in enumerate(sizes)]
    results = _predictor(model, batch_size=3)(images)
    assert [r["size"] for r in results] == sizes
    assert [r["mean"][0].item() for r in results] == [0, 10, 20, 30, 40, 50], "BGR became RGB"
    assert sorted(map(len, model.batches)) == [1, 2, 3]
    assert all(len(set(batch)) == 1 for batch in model.batches)
    assert model.training, "it is in its mode again"


def test_files_and_arrays(tmp_path):
    Image.fromarray(_array(8, 9, (200, 100, 0))).save(tmp_path / "a.png")
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        assert _predictor()([path])[0]["mean"].tolist() == [200, 100, 0]
    array = _array(8, 9, (200, 100, 0))
    assert _predictor(array_format="RGB")([array])[0]["mean"].tolist() == [200, 100, 0]
    assert _predictor()([]) == []


def test_the_mode_is_restored_after_errors():
    class Broken(_Means):
        def forward(self, batch):
            raise ZeroDivisionError

    model = Broken().train()
    with pytest.raises(ZeroDivisionError):
        _predictor(model)([_array(4, 4, (0, 0, 0))])
    assert model.training


def test_later_images_are_not_read_before_they_are_needed(tmp_path):
    Image.fromarray(_array(8, 9, (1, 1, 1))).save(tmp_path / "a.png")
    paths = [tmp_path / "a.png"] * 8 + [tmp_path / "missing.png"]
    results = _predictor(batch_size=1).predict(paths)
    for _ in range(8):
        next(results)
    with pytest.raises(DatasetFileNotFoundError, match=r"missing\.png does not exist"):
        next(results)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
)
def test_wrong_arrays(image):
    with pytest.raises(DatasetError, match="image 1 is an array of shape"):
        _predictor()([_array(4, 4, (0, 0, 0)), image])


def test_wrong_arguments(tmp_path):
    with pytest.raises(ConfigError, match="array_format of a predictor is 'HSV'"):
        _predictor(array_format="HSV")
    with pytest.raises(ConfigError, match="batch_size of a predictor is 0"):
        _predictor(batch_size=0)
    with pytest.raises(TypeError, match="list of images"):
        _predictor()("a.png")
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(DatasetError, match="can't be decoded"):
        _predictor()([tmp_path / "a.png"])


@pytest.fixture(scope="module")
def panoptic(tmp_path_factory):
    """A config, and a file of random weights for its model."""
    cfg = LazyConfig.load(str(ROOT / "configs/quick/shapes_panoptic_lvt.py"))
    cfg.train.device = "cpu"
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    ema = build_ema(model, 0.9)
    for parameter in ema.module.parameters():
        parameter.data *= 0.5
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": model.state_dict(), "ema": ema.state_dict(), "iteration": 1}, path)
    return cfg, str(path), model


def test_results_equal_those_of_single_images(panoptic):
    cfg, path, _ = panoptic
    rng = np.random.default_rng(0)
    sizes = [(60, 90), (90, 60), (60, 90), (64, 64)]
    images = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in sizes]
    predictor = Predictor.from_config(cfg, path, batch_size=2)
    together, alone = predictor(images), [predictor([image])[0] for image in images]
    for one, other, size in zip(together, alone, sizes, strict=True):
        assert one["sem_seg"].shape[1:] == one["panoptic_seg"][0].shape == size
        assert torch.allclose(one["sem_seg"], other["sem_seg"], atol=1e-4)
        assert torch.allclose(one["instances"].scores, other["instances"].scores, atol=1e-4)
        boxes = one["instances"].pred_boxes.tensor, other["instances"].pred_boxes.tensor
        assert torch.allclose(*boxes, atol=1e-2)
    assert len(predictor.metadata.thing_classes) == 5


def test_input_is_the_test_loaders(panoptic):
    cfg, path, model = panoptic
    predictor = Predictor.from_config(cfg, path)
    assert predictor.image_format == "RGB" and not predictor.model.training
    image = np.arange(60 * 90 * 3, dtype=np.uint8).reshape(60, 90, 3)
    item = predictor._input(image, 0)
    resize = instantiate(cfg.dataloader.test.mapper.augmentations[0]).get_transform(image)
    expected = resize.apply_image(np.ascontiguousarray(image[:, :, ::-1])).transpose(2, 0, 1)
    assert np.array_equal(item["image"], expected)
    assert (item["height"], item["width"]) == (60, 90)
    for name, value in predictor.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_averaged_weights_are_the_configs_choice(panoptic):
    cfg, path, model = panoptic
    cfg = LazyConfig.load(str(ROOT / "configs/quick/shapes_panoptic_lvt.py"))
    cfg.train.device, cfg.train.ema.enabled = "cpu", True
    own, averaged = model.state_dict(), Predictor.from_config(cfg, path).model.state_dict()
    name = "backbone.fpn_output2.weight"
    assert torch.equal(averaged[name], 0.5 * own[name])
    cfg.train.ema.evaluate = False
    cfg.train.init_checkpoint = path
    assert torch.equal(Predictor.from_config(cfg).model.state_dict()[name], own[name])


def test_configs_that_say_too_little(panoptic, tmp_path):
    cfg = LazyConfig.load(str(ROOT / "configs/quick/shapes_panoptic_lvt.py"))
    cfg.train.device = "cpu"
    with pytest.raises(ConfigError, match="no weights"):
        Predictor.from_config(cfg)
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="does not fit"):
        Predictor.from_config(cfg, str(tmp_path / "a.pth"))
    del cfg.dataloader.test.mapper.image_format
    cfg.model.pop("input_format", None)
    with pytest.raises(ConfigError, match="which channel order"):
        Predictor.from_config(cfg, panoptic[1])
    del cfg.dataloader.test
    with pytest.raises(ConfigError, match=r"no dataloader\.test\.mapper\.augmentations"):
        Predictor.from_config(cfg, panoptic[1])
