"""Test-time augmentation."""

import copy

import numpy as np
import pytest
import torch
from detectron2.modeling import DatasetMapperTTA, GeneralizedRCNNWithTTA, build_model
from detectron2.structures import Boxes, Instances
from PIL import Image

from projects.d2lite.tests.test_modeling_yaml import config


def tta_config(**options):
    cfg = config()
    cfg.TEST.AUG.MIN_SIZES = (64, 96)
    cfg.TEST.AUG.MAX_SIZE = 120
    cfg.TEST.AUG.FLIP = True
    cfg.MODEL.MASK_ON = options.get("mask", True)
    cfg.TEST.DETECTIONS_PER_IMAGE = 10
    return cfg


def picture(height=64, width=80):
    rng = np.random.RandomState(0)
    return torch.from_numpy(rng.randint(0, 256, (3, height, width)).astype(np.uint8))


def test_mapper():
    mapper = DatasetMapperTTA(tta_config())
    inputs = {"image": picture(), "height": 128, "width": 160, "file_name": "x"}
    results = mapper(inputs)
    shapes = [tuple(r["image"].shape) for r in results]
    assert shapes == [(3, 64, 80)] * 2 + [(3, 96, 120)] * 2
    assert torch.equal(results[0]["image"], picture())
    assert torch.equal(results[1]["image"], picture().flip(2))
    assert all(r["file_name"] == "x" and (r["height"], r["width"]) == (128, 160) for r in results)
    box = np.array([[16.0, 32, 80, 64]])
    expected = [[8, 16, 40, 32], [40, 16, 72, 32], [12, 24, 60, 48], [60, 24, 108, 48]]
    for result, wanted in zip(results, expected, strict=True):
        moved = result["transforms"].apply_box(box.copy())
        np.testing.assert_allclose(moved, [wanted])
        back = result["transforms"].inverse().apply_box(moved)
        np.testing.assert_allclose(back, box)
    assert set(inputs) == {"image", "height", "width", "file_name"}


def test_mapper_without_flip():
    mapper = DatasetMapperTTA(min_sizes=[32], max_size=1000, flip=False)
    assert len(mapper({"image": picture(), "height": 64, "width": 80})) == 1


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build_model(tta_config()).eval()
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    return model


@pytest.mark.parametrize("batch_size", [1, 3])
def test_inference(model, batch_size):
    tta = GeneralizedRCNNWithTTA(tta_config(), model, batch_size=batch_size)
    with torch.no_grad():
        result = tta([{"image": picture(), "height": 128, "width": 160}])[0]["instances"]
    assert result.image_size == (128, 160)
    assert 0 < len(result) <= 10
    assert result.pred_masks.shape[1:] == (128, 160) and result.pred_masks.dtype == torch.bool
    assert result.pred_boxes.inside_box((128, 160), 1).all()
    assert model.roi_heads.mask_on


def test_one_plain_version_is_plain_inference(model):
    cfg = tta_config()
    mapper = DatasetMapperTTA(min_sizes=[64], max_size=1000, flip=False)
    tta = GeneralizedRCNNWithTTA(cfg, model, tta_mapper=mapper)
    with torch.no_grad():
        merged = tta([{"image": picture()}])[0]["instances"]
        plain = model([{"image": picture()}])[0]["instances"]
    torch.testing.assert_close(merged.pred_boxes.tensor, plain.pred_boxes.tensor)
    torch.testing.assert_close(merged.scores, plain.scores)
    assert (merged.pred_masks == plain.pred_masks).float().mean() > 0.999


def test_mirrored_masks_are_turned_back(model):
    tta = GeneralizedRCNNWithTTA(tta_config(), model)
    inputs, transforms = tta._get_augmented_inputs({"image": picture(), "height": 64, "width": 80})
    mask = torch.rand(2, 1, 6, 6)
    outputs = [Instances((1, 1), pred_masks=mask.clone()) for _ in inputs]
    for flipped in outputs[1::2]:
        flipped.pred_masks = mask.flip(3)
    torch.testing.assert_close(tta._reduce_pred_masks(outputs, transforms), mask)


def test_merging_suppresses_duplicates_of_one_class(model):
    tta = GeneralizedRCNNWithTTA(tta_config(), model)
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 11], [0, 0, 10, 10]])
    merged = tta._merge_detections(
        boxes, torch.tensor([0.5, 0.9, 0.7]), torch.tensor([1, 1, 2]), (20, 20)
    )
    assert merged.pred_classes.tolist() == [1, 2]
    assert merged.scores.tolist() == pytest.approx([0.9, 0.7])


def test_without_masks(model):
    bare = copy.deepcopy(model)
    bare.roi_heads.mask_on = False
    tta = GeneralizedRCNNWithTTA(tta_config(mask=False), bare)
    with torch.no_grad():
        result = tta([{"image": picture()}])[0]["instances"]
    assert set(result.get_fields()) == {"pred_boxes", "scores", "pred_classes"}


def test_reads_files(model, tmp_path):
    path = tmp_path / "picture.png"
    array = np.random.RandomState(1).randint(0, 256, (64, 80, 3)).astype(np.uint8)
    Image.fromarray(array).save(path)
    tta = GeneralizedRCNNWithTTA(tta_config(), model)
    seen = []
    tta.tta_mapper, mapper = lambda x: (seen.append(x), mapper(x))[1], tta.tta_mapper
    inputs = {"file_name": str(path)}
    with torch.no_grad():
        tta([inputs])
    assert list(inputs) == ["file_name"]
    assert (seen[0]["height"], seen[0]["width"]) == (64, 80)
    # BGR, as the model asks for
    assert np.array_equal(seen[0]["image"].numpy(), array[:, :, ::-1].transpose(2, 0, 1))


def test_nothing_detected(model):
    class Blind(torch.nn.Module):
        def forward(self, images, features, gt=None):
            empty = [
                Instances(
                    size,
                    proposal_boxes=Boxes(torch.zeros(0, 4)),
                    objectness_logits=torch.zeros(0),
                )
                for size in images.image_sizes
            ]
            return empty, {}

    blind = copy.deepcopy(model)
    blind.proposal_generator = Blind()
    with torch.no_grad():
        result = GeneralizedRCNNWithTTA(tta_config(), blind)([{"image": picture()}])[0]
    assert len(result["instances"]) == 0
    assert result["instances"].pred_masks.shape == (0, 64, 80)


def test_other_models_are_refused(model):
    with pytest.raises(AssertionError, match="GeneralizedRCNN"):
        GeneralizedRCNNWithTTA(tta_config(), torch.nn.Identity())
    cfg = tta_config()
    cfg.MODEL.KEYPOINT_ON = True
    with pytest.raises(AssertionError, match="keypoint"):
        GeneralizedRCNNWithTTA(cfg, model)
    cfg = tta_config()
    cfg.MODEL.LOAD_PROPOSALS = True
    with pytest.raises(AssertionError, match="pre-computed"):
        GeneralizedRCNNWithTTA(cfg, model)
