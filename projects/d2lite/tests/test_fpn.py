"""Feature pyramid: wiring, names, and the backbone's contract."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, Backbone
from detectron2.modeling.backbone import LastLevelMaxPool, LastLevelP6P7
from torch import nn
from torch.nn import functional as F

from projects.d2lite.tests.panoptic_reference import PlainBackbone

CHANNELS = {"res2": 4, "res3": 6, "res4": 8, "res5": 10}


def build(in_features=tuple(CHANNELS), **options):
    torch.manual_seed(0)
    return FPN(PlainBackbone(CHANNELS), in_features, 12, **options)


@pytest.mark.parametrize("fuse_type", ["sum", "avg"])
@pytest.mark.parametrize("in_features", [("res2", "res3", "res4", "res5"), ("res3", "res4")])
def test_equals_a_slow_pyramid(fuse_type, in_features):
    fpn = build(in_features, fuse_type=fuse_type)
    image = torch.randn(2, 3, 64, 96)
    maps = fpn.bottom_up(image)
    expected, above = {}, None
    for name in reversed(in_features):
        level = name[-1]
        merged = fpn.get_submodule(f"fpn_lateral{level}")(maps[name])
        if above is not None:
            doubled = above.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            merged = (merged + doubled) / (2 if fuse_type == "avg" else 1)
        above = merged
        expected[f"p{level}"] = fpn.get_submodule(f"fpn_output{level}")(merged)
    outputs = fpn(image)
    assert list(outputs) == list(fpn.output_shape()) == sorted(expected)
    for name, value in expected.items():
        torch.testing.assert_close(outputs[name], value)
        shape = fpn.output_shape()[name]
        assert shape == ShapeSpec(channels=12, stride=2 ** int(name[1]))
        assert value.shape == (2, 12, 64 // shape.stride, 96 // shape.stride)


def test_max_pooled_level():
    fpn = build(top_block=LastLevelMaxPool())
    outputs = fpn(torch.randn(1, 3, 64, 96))
    assert list(outputs) == ["p2", "p3", "p4", "p5", "p6"]
    assert torch.equal(outputs["p6"], outputs["p5"][:, :, ::2, ::2])
    assert fpn.output_shape()["p6"].stride == 64


@pytest.mark.parametrize("in_feature, channels", [("res5", 10), ("p5", 12)])
def test_convolved_levels(in_feature, channels):
    top = LastLevelP6P7(channels, 12, in_feature)
    fpn = build(top_block=top)
    image = torch.randn(1, 3, 64, 64)
    outputs = fpn(image)
    source = fpn.bottom_up(image)["res5"] if in_feature == "res5" else outputs["p5"]
    torch.testing.assert_close(outputs["p6"], top.p6(source))
    torch.testing.assert_close(outputs["p7"], top.p7(F.relu(top.p6(source))))
    assert fpn.output_shape()["p7"].stride == 128


def test_padding_rules():
    fpn = build()
    assert fpn.size_divisibility == 32
    assert fpn.padding_constraints == {"square_size": 0}
    assert build(square_pad=1024).padding_constraints == {"square_size": 1024}
    assert build(("res2", "res3")).size_divisibility == 8


def test_names_of_parameters():
    keys = [k for k in build().state_dict() if not k.startswith("bottom_up")]
    levels = [f"fpn_{kind}{i}" for i in range(2, 6) for kind in ("lateral", "output")]
    assert keys == [f"{level}.{part}" for level in levels for part in ("weight", "bias")]
    normed = FPN(PlainBackbone(CHANNELS), ["res2"], 64, norm="GN").state_dict()
    assert "fpn_lateral2.norm.weight" in normed
    assert "fpn_lateral2.bias" not in normed


def test_initialisation():
    fpn = FPN(PlainBackbone(CHANNELS), list(CHANNELS), 64)
    weight = fpn.fpn_output3.weight
    bound = (3 / (64 * 9)) ** 0.5
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert fpn.fpn_output3.bias.abs().max() == 0


def test_every_parameter_gets_a_gradient():
    fpn = build(top_block=LastLevelP6P7(10, 12))
    sum(x.square().sum() for x in fpn(torch.randn(1, 3, 64, 64)).values()).backward()
    assert all(p.grad.abs().sum() > 0 for p in fpn.parameters())


def test_bad_arguments():
    with pytest.raises(AssertionError, match="log2 contiguous"):
        build(("res2", "res4"))
    with pytest.raises(AssertionError, match="fuse_type"):
        build(fuse_type="max")
    with pytest.raises(AssertionError, match="in_features"):
        build(())
    with pytest.raises(AssertionError, match="Backbone"):
        FPN(nn.Identity(), ["res2"], 8)


def test_backbone_contract():
    backbone = PlainBackbone(CHANNELS)
    assert backbone.size_divisibility == 0
    assert backbone.padding_constraints == {}
    assert backbone.output_shape()["res4"] == ShapeSpec(channels=8, stride=16)
    with pytest.raises(TypeError, match="abstract"):
        Backbone()


def test_traced_equals_eager():
    fpn = build().requires_grad_(False)
    traced = torch.jit.trace(lambda x: tuple(fpn(x).values()), torch.rand(1, 3, 64, 64))
    image = torch.rand(2, 3, 32, 96)
    for ours, theirs in zip(traced(image), fpn(image).values(), strict=True):
        torch.testing.assert_close(ours, theirs)
