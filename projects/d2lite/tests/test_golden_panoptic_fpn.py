"""Panoptic FPN against numbers recorded from Detectron2."""

import json

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage

from projects.d2lite.tests.panoptic_reference import (
    build_panoptic_fpn,
    load_reference_weights,
    training_inputs,
)

PARAMETERS_OF_THE_PANOPTIC_MODEL = 384_768 + 84_495 + 778_560 + 64_561 + 376_880 + 231_414


@pytest.fixture(scope="module")
def arrays(goldens):
    return dict(np.load(goldens / "engine" / "panoptic_fpn.npz"))


@pytest.fixture(scope="module")
def model(goldens, synth):
    model = build_panoptic_fpn()
    load_reference_weights(model, goldens / "engine", synth)
    return model


@pytest.fixture(scope="module")
def predicted(model, arrays):
    """Features, proposals and final results of the test image."""
    model.eval()
    inputs = [{"image": torch.from_numpy(arrays["image"]), "height": 320, "width": 384}]
    with torch.no_grad():
        images = model.preprocess_image(inputs)
        features = model.backbone(images.tensor)
        proposals, losses = model.proposal_generator(images, features)
        assert losses == {}
        return features, proposals[0], model(inputs)[0]


@pytest.fixture(scope="module")
def trained(model, arrays):
    """Losses, scalars of the storage, and gradient norms of one training step."""
    model.train()
    model.zero_grad()
    with EventStorage() as storage:
        losses = model(training_inputs(arrays))
        sum(losses.values()).backward()
        scalars = {name: value for name, (value, _) in storage.latest().items()}
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    return {name: loss.item() for name, loss in losses.items()}, scalars, norms


def test_head_parameters_are_as_published(model):
    backbone = sum(p.numel() for p in model.backbone.bottom_up.parameters())
    total = sum(p.numel() for p in model.parameters())
    assert total - backbone == PARAMETERS_OF_THE_PANOPTIC_MODEL


@pytest.mark.parametrize("level", ["p2", "p3", "p4", "p5", "p6"])
def test_features(predicted, arrays, level):
    expected = arrays[f"fpn_{level}"]
    # Half precision keeps a relative 2^-11, whatever the size of the number.
    tolerance = 1e-3 if expected.dtype == np.float16 else 1e-4
    np.testing.assert_allclose(
        predicted[0][level].numpy(), expected.astype(np.float32), rtol=tolerance, atol=tolerance
    )


def test_proposals(predicted, arrays):
    proposals = predicted[1]
    assert len(proposals) == arrays["num_proposals"]
    boxes = proposals.proposal_boxes.tensor[:200].numpy()
    np.testing.assert_allclose(boxes, arrays["proposal_boxes"], atol=1e-2, rtol=0)
    logits = proposals.objectness_logits[:200].numpy()
    np.testing.assert_allclose(logits, arrays["objectness"], atol=1e-4, rtol=1e-4)


def test_detections(predicted, arrays):
    instances = predicted[2]["instances"]
    assert instances.image_size == (320, 384)
    np.testing.assert_allclose(
        instances.pred_boxes.tensor.numpy(), arrays["det_boxes"], atol=1e-2, rtol=0
    )
    np.testing.assert_allclose(instances.scores.numpy(), arrays["det_scores"], atol=1e-4)
    np.testing.assert_array_equal(instances.pred_classes.numpy(), arrays["det_classes"])
    assert instances.pred_masks.dtype == torch.bool
    areas = instances.pred_masks.sum((1, 2)).numpy()
    assert np.abs(areas - arrays["det_mask_area"]).max() <= 1e-3 * 320 * 384
    assert np.abs(areas - arrays["det_mask_area"]).sum() <= 1e-3 * areas.sum()


def test_semantic_map(predicted, arrays):
    labels = predicted[2]["sem_seg"].argmax(0).numpy()
    assert (labels == arrays["sem_argmax"]).mean() >= 0.999


def test_panoptic_map(predicted, arrays, goldens):
    panoptic, segments = predicted[2]["panoptic_seg"]
    assert panoptic.dtype == torch.int32
    assert (panoptic.numpy() == arrays["panoptic"]).mean() >= 0.999
    expected = json.loads((goldens / "engine" / "segments_info.json").read_text())
    assert len(segments) == len(expected)
    for ours, theirs in zip(segments, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            tolerance = {"score": 1e-4, "area": 0.001 * 320 * 384}.get(key, 0)
            assert ours[key] == pytest.approx(value, abs=tolerance, rel=0), key


def test_training_losses(trained, goldens):
    expected = json.loads((goldens / "engine" / "training.json").read_text())["losses"]
    assert trained[0] == pytest.approx(expected, rel=1e-4)


def test_gradient_norms(trained, goldens):
    expected = json.loads((goldens / "engine" / "training.json").read_text())["grad_norms"]
    assert trained[2] == pytest.approx(expected, rel=1e-3)


def test_scalars_of_the_storage(trained):
    assert set(trained[1]) == {
        "rpn/num_pos_anchors",
        "rpn/num_neg_anchors",
        "roi_head/num_fg_samples",
        "roi_head/num_bg_samples",
        "fast_rcnn/cls_accuracy",
        "fast_rcnn/fg_cls_accuracy",
        "fast_rcnn/false_negative",
        "mask_rcnn/accuracy",
        "mask_rcnn/false_positive",
        "mask_rcnn/false_negative",
    }
