"""The backbone's contract: sizes, names, options, gradients."""

import pytest
import torch
from detectron2.modeling.backbone import Backbone
from torch import nn

from lvt_d2.modeling import LVT

SMALL = dict(embed_dims=(8, 8, 16, 16), num_heads=(1, 1, 2, 2), depths=(1, 1, 1, 1))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_size():
    model = LVT()
    assert count(model) == 3_429_092
    assert [count(s) for s in model.stages] == [179_396, 345_536, 931_680, 1_972_480]


def test_is_a_backbone():
    model = LVT(**SMALL)
    assert isinstance(model, Backbone)
    shapes = model.output_shape()
    assert {k: (v.channels, v.stride) for k, v in shapes.items()} == {
        "res2": (8, 4),
        "res3": (8, 8),
        "res4": (16, 16),
        "res5": (16, 32),
    }
    assert model.size_divisibility == 32


@pytest.mark.parametrize("size", [(32, 32), (33, 64), (97, 131), (64, 63)])
def test_any_size(size):
    model = LVT(**SMALL)
    features = model(torch.randn(2, 3, *size))
    assert list(features) == ["res2", "res3", "res4", "res5"]
    for name, shape in model.output_shape().items():
        h, w = (-(-side // shape.stride) for side in size)
        assert features[name].shape == (2, shape.channels, h, w)
        assert features[name].isfinite().all()


def test_too_small_image():
    with pytest.raises(ValueError, match="31x64 pixels; LVT needs at least 32"):
        LVT(**SMALL)(torch.randn(1, 3, 31, 64))


def test_every_parameter_gets_a_gradient():
    model = LVT(**SMALL)
    sum(f.square().mean() for f in model(torch.randn(2, 3, 64, 64)).values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_out_features_limit_what_is_built():
    model = LVT(**SMALL, out_features=("res3", "res2"))
    assert list(model(torch.randn(1, 3, 32, 32))) == ["res2", "res3"]
    assert len(model.stages) == 2


@pytest.mark.parametrize(
    ("freeze_at", "frozen"),
    [(0, []), (1, ["stages.0.patch_embed"]), (2, ["stages.0"]), (3, ["stages.0", "stages.1"]),
     (5, ["stages"])],
)  # fmt: skip
def test_freeze_at(freeze_at, frozen):
    model = LVT(**SMALL, freeze_at=freeze_at)
    for name, parameter in model.named_parameters():
        expected = any(name.startswith(prefix + ".") for prefix in frozen)
        assert parameter.requires_grad != expected, name


def test_recomputation_changes_nothing_but_memory():
    torch.manual_seed(0)
    plain, lean = LVT(**SMALL), LVT(**SMALL, use_checkpoint=True)
    lean.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 48, 40)
    gradients = []
    for model in (plain, lean):
        sum(f.square().mean() for f in model(x).values()).backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_drop_path_grows_linearly():
    model = LVT(drop_path_rate=0.7)
    rates = [getattr(b.drop_path, "p", 0.0) for s in model.stages for b in s.blocks]
    assert rates == pytest.approx([0.1 * i for i in range(8)])


@pytest.mark.parametrize(
    "change",
    [
        {"in_chans": 4},
        {"embed_dims": (64, 64, 160, 512)},
        {"depths": (2, 2, 3, 2)},
        {"mlp_ratios": (4, 4, 4, 4)},
        {"sr_ratios": (2, 2, 1)},
        {"out_features": ("res2",)},
    ],
)
def test_arguments_change_the_parameters(change):
    assert count(LVT(**change)) != 3_429_092


@pytest.mark.parametrize(
    "change", [{"num_heads": (4, 2, 5, 8)}, {"num_heads": (2, 1, 5, 8)}, {"atrous_rates": (1, 2)},
               {"recursions": 1}],
)  # fmt: skip
def test_arguments_change_the_output(change):
    torch.manual_seed(0)
    reference = LVT().eval()
    torch.manual_seed(0)
    model = LVT(**change).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(reference(x)["res5"], model(x)["res5"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embed_dims": (64, 64)}, "embed_dims is"),
        ({"depths": (0, 1, 1, 1)}, "depths is"),
        ({"sr_ratios": (4, 2, 1, 1)}, "sr_ratios is"),
        ({"out_features": ("p2",)}, "out_features is"),
        ({"out_features": ()}, "out_features is"),
        ({"drop_path_rate": 1.0}, "drop_path_rate is 1.0"),
        ({"freeze_at": 6}, "freeze_at is 6"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        LVT(**arguments)
    with pytest.raises(TypeError):
        LVT(unknown=1)
