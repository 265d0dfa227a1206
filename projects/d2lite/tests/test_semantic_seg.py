"""Semantic segmentation: the head of Panoptic FPN, and the model."""

from functools import partial

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, SemanticSegmentor
from detectron2.modeling.meta_arch import SemSegFPNHead
from detectron2.modeling.postprocessing import sem_seg_postprocess
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F

from projects.d2lite.tests.panoptic_reference import PlainBackbone

SHAPES = {f"p{i}": ShapeSpec(channels=6, stride=2**i) for i in (5, 3, 2, 4)}


def build_head(**options):
    torch.manual_seed(0)
    arguments = {"num_classes": 5, "conv_dims": 8, "common_stride": 4, "ignore_value": 255}
    return SemSegFPNHead(**({"input_shape": SHAPES} | arguments | options))


def maps(height=64, width=96):
    generator = torch.Generator().manual_seed(1)
    return {
        f"p{i}": torch.randn(2, 6, height // 2**i, width // 2**i, generator=generator)
        for i in range(2, 6)
    }


def test_structure():
    head = build_head(norm=partial(nn.GroupNorm, 4))
    assert head.in_features == ["p2", "p3", "p4", "p5"]
    lengths = {
        f: sum(hasattr(m, "stride") for m in head.get_submodule(f)) for f in head.in_features
    }
    assert lengths == {"p2": 1, "p3": 1, "p4": 2, "p5": 3}
    keys = head.state_dict()
    assert {"p5.4.weight", "p5.4.norm.weight", "p2.0.norm.bias", "predictor.bias"} < set(keys)
    assert "p2.0.bias" not in keys
    assert "p2.0.bias" in build_head().state_dict()
    assert build_head(norm="GN", conv_dims=32).p2[0].norm.num_groups == 32


def test_equals_a_slow_head():
    head = build_head(norm=partial(nn.GroupNorm, 4)).eval()
    features = maps()
    total = 0
    for name, doublings in {"p2": 0, "p3": 1, "p4": 2, "p5": 3}.items():
        x = features[name]
        layers = head.get_submodule(name)
        for k in range(max(1, doublings)):
            conv = layers[2 * k]
            x = F.conv2d(x, conv.weight, None, padding=1)
            x = F.relu(F.group_norm(x, 4, conv.norm.weight, conv.norm.bias))
            if doublings:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        total = total + x
    expected = F.conv2d(total, head.predictor.weight, head.predictor.bias)
    torch.testing.assert_close(head.layers(features), expected)
    logits, losses = head(features)
    assert losses == {}
    torch.testing.assert_close(
        logits, F.interpolate(expected, scale_factor=4, mode="bilinear", align_corners=False)
    )


def test_loss():
    head = build_head(loss_weight=0.5)
    features = maps()
    targets = torch.randint(0, 5, (2, 64, 96))
    targets[:, :20] = 255
    result, losses = head(features, targets)
    assert result is None and list(losses) == ["loss_sem_seg"]
    logits = F.interpolate(
        head.layers(features), scale_factor=4, mode="bilinear", align_corners=False
    )
    per_pixel = -logits.log_softmax(1).gather(1, targets.clamp(max=4)[:, None])[:, 0]
    expected = 0.5 * per_pixel[targets != 255].mean()
    torch.testing.assert_close(losses["loss_sem_seg"], expected)
    losses["loss_sem_seg"].backward()
    assert all(p.grad.abs().sum() > 0 for p in head.parameters())


def test_head_arguments():
    with pytest.raises(ValueError, match="cannot be empty"):
        build_head(input_shape={})
    lazy = OmegaConf.create(
        {"p3": {"channels": 6, "stride": 8}, "p2": {"channels": 6, "stride": 4}}
    )
    head = build_head(input_shape=lazy)
    assert head.in_features == ["p2", "p3"]
    coarse = {name: shape for name, shape in SHAPES.items() if name != "p2"}
    head = build_head(input_shape=coarse, common_stride=8).eval()
    assert [len(head.get_submodule(f)) for f in head.in_features] == [1, 2, 4]
    assert head(maps())[0].shape == (2, 5, 64, 96)


def build_model(**options):
    torch.manual_seed(0)
    channels = dict.fromkeys(("res2", "res3", "res4", "res5"), 4)
    arguments = {
        "backbone": FPN(PlainBackbone(channels), list(channels), 6),
        "sem_seg_head": build_head(),
        "pixel_mean": [100.0, 110, 120],
        "pixel_std": [50.0, 60, 70],
    }
    return SemanticSegmentor(**(arguments | options))


def batch():
    generator = torch.Generator().manual_seed(2)
    sizes = [(40, 70), (64, 50)]
    return [
        {
            "image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8),
            "sem_seg": torch.randint(0, 5, size, generator=generator),
        }
        for size in sizes
    ]


def test_model_pads_with_the_ignored_label():
    model = build_model()
    losses = model(batch())
    padded = torch.full((2, 64, 96), 255)
    images = torch.zeros(2, 3, 64, 96)
    for i, x in enumerate(batch()):
        h, w = x["sem_seg"].shape
        padded[i, :h, :w] = x["sem_seg"]
        images[i, :, :h, :w] = (x["image"] - model.pixel_mean) / model.pixel_std
    expected = model.sem_seg_head(model.backbone(images), padded)[1]
    torch.testing.assert_close(losses["loss_sem_seg"], expected["loss_sem_seg"])


def test_model_predicts_at_the_wanted_size():
    model = build_model().eval()
    inputs = batch()
    inputs[0]["height"], inputs[0]["width"] = 80, 140
    for x in inputs:
        del x["sem_seg"]
    with torch.no_grad():
        first, second = model(inputs)
    assert first["sem_seg"].shape == (5, 80, 140)
    assert second["sem_seg"].shape == (5, 64, 50)


def test_model_statistics():
    model = build_model()
    assert not any("pixel" in key for key in model.state_dict())
    assert model.pixel_mean.shape == (3, 1, 1)
    assert model.device == torch.device("cpu")
    with pytest.raises(AssertionError, match="different shapes"):
        build_model(pixel_std=[1.0])


def test_postprocess_cuts_the_padding():
    logits = torch.full((2, 8, 8), -1.0)
    logits[:, :4, :6] = 1
    result = sem_seg_postprocess(logits, (4, 6), 8, 12)
    assert result.shape == (2, 8, 12) and (result == 1).all()
    exact = torch.randn(2, 5, 7)
    assert torch.equal(sem_seg_postprocess(exact, (5, 7), 5, 7), exact)
