"""timm's conventions, for every model that is registered there."""

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import group_parameters
from timm.optim import create_optimizer_v2

NAMES = timm.list_models("lvt*")
CHANNELS = [64, 64, 160, 256]
SMALL = dict(embed_dims=(8, 8, 16, 16), num_heads=(1, 1, 2, 2), depths=(1, 1, 1, 1))
every_model = pytest.mark.parametrize("name", NAMES)


def create(name, **options):
    torch.manual_seed(0)
    return timm.create_model(name, **options)


def small(name, **options):
    heads = {"class_heads": 2} if name == "lvt_cls" else {}
    return create(name, **{"num_classes": 5, **SMALL, **heads, **options})


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def without_gradient(model):
    return [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_registry():
    assert NAMES == ["lvt", "lvt_cls"]
    assert timm.list_models("lvt*", pretrained=True) == []
    assert timm.is_model("lvt") and timm.is_model("lvt_cls")


def test_published_sizes():
    assert count(create("lvt_cls")) == 5_521_844
    assert count(create("lvt", num_classes=0)) == 3_429_092
    assert count(create("lvt")) == 3_429_092 + 257 * 1000
    for name in NAMES:
        assert count(create(name, features_only=True)) == 3_429_092


@every_model
@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("size", [(64, 64), (33, 70)], ids=str)
def test_forward(name, batch, size):
    model = create(name).eval()
    with torch.inference_mode():
        output = model(torch.randn(batch, 3, *size))
    assert output.shape == (batch, 1000) and output.isfinite().all()


@every_model
def test_backward(name):
    model = create(name, num_classes=42, drop_path_rate=0.0).train()
    output = model(torch.randn(2, 3, 64, 64))
    assert output.shape == (2, 42)
    output.mean().backward()
    assert without_gradient(model) == []


@every_model
def test_default_config(name):
    model = create(name).eval()
    config = model.default_cfg
    assert config is model.pretrained_cfg
    assert config["architecture"] == name and config["crop_pct"] == 0.96
    assert config["input_size"] == (3, 224, 224) and config["interpolation"] == "bicubic"
    assert not config.get("url") and not config.get("hf_hub_id")
    state = model.state_dict()
    classifiers = config["classifier"]
    for layer in (config["first_conv"], *([classifiers] if name == "lvt" else classifiers)):
        assert f"{layer}.weight" in state
    assert model.get_classifier().out_features == model.num_classes == config["num_classes"]
    x = torch.randn(1, 3, 224, 224)
    pool_size = torch.Size(config["pool_size"])
    with torch.inference_mode():
        features = model.forward_features(x)
        assert model.forward_head(features, pre_logits=True).shape == (1, model.num_features)
        model.reset_classifier(0)
        pooled = model(x)
        torch.testing.assert_close(pooled, model.forward_head(features, pre_logits=True))
        model.reset_classifier(0, "")
        unpooled = model(x)
        assert torch.equal(unpooled, create(name, num_classes=0, global_pool="").eval()(x))
    expected = (1, 256, *pool_size) if name == "lvt" else (1, 1 + pool_size.numel(), 256)
    assert unpooled.shape == expected


@every_model
def test_reset_classifier(name):
    model = create(name).double().eval()
    model.reset_classifier(7)
    assert model.num_classes == 7 and model.get_classifier().out_features == 7
    assert model.get_classifier().weight.dtype == torch.float64
    assert not model.get_classifier().training and not model.get_classifier().bias.any()
    with torch.inference_mode():
        x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
        assert model(x).shape == (1, 7)
        model.reset_classifier(3, "avg")
        assert model.global_pool == "avg" and model(x).shape == (1, 3)


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax"])
def test_pooling(pool):
    model = small("lvt", global_pool=pool).eval()
    assert model.global_pool == pool
    with torch.inference_mode():
        features = model.forward_features(torch.randn(2, 3, 64, 96))
        pooled = model.forward_head(features, pre_logits=True)
    average, maximum = features.mean((2, 3)), features.amax((2, 3))
    expected = {"avg": average, "max": maximum, "avgmax": (average + maximum) / 2}
    torch.testing.assert_close(pooled, expected.get(pool, torch.cat([average, maximum], 1)))


@every_model
@pytest.mark.parametrize("in_chans", [1, 4])
def test_channels_of_images(name, in_chans):
    model = small(name, in_chans=in_chans).train()
    assert model.in_chans == in_chans
    model(torch.randn(2, in_chans, 64, 64)).square().mean().backward()
    assert without_gradient(model) == []


@every_model
def test_features(name):
    model = create(name, features_only=True)
    assert model.feature_info.channels() == CHANNELS
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    maps = model(torch.randn(2, 3, 97, 131))
    assert [m.shape for m in maps] == [
        (2, c, -(-97 // s), -(-131 // s)) for c, s in zip(CHANNELS, (4, 8, 16, 32), strict=True)
    ]
    sum(m.square().mean() for m in maps).backward()
    assert without_gradient(model) == []


@every_model
@pytest.mark.parametrize(("indices", "stages"), [((0, 2), 3), ((1,), 2), ((-1,), 4), (2, 4)])
def test_chosen_features(name, indices, stages):
    full = create(name, features_only=True).eval()
    model = create(name, features_only=True, out_indices=indices).eval()
    x = torch.randn(1, 3, 64, 64)
    chosen = [2, 3] if indices == 2 else [i % 4 for i in indices]
    assert model.feature_info.channels() == [CHANNELS[i] for i in chosen]
    assert len(model.model.backbone.stages) == stages
    with torch.inference_mode():
        maps = full(x)
        for i, m in zip(chosen, model(x), strict=True):
            assert torch.equal(m, maps[i])


@every_model
@pytest.mark.parametrize("feature_cls", ["hook", "fx"])
def test_other_extractors(name, feature_cls):
    model = small(name, features_only=True, feature_cls=feature_cls, out_indices=(1, 3)).eval()
    reference = small(name, features_only=True, out_indices=(1, 3)).eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        for ours, expected in zip(model(x), reference(x), strict=True):
            torch.testing.assert_close(ours.permute(0, 3, 1, 2), expected)


@every_model
def test_intermediates(name):
    model = create(name).eval()
    x = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        features = model.forward_features(x)
        output, maps = model.forward_intermediates(x)
        torch.testing.assert_close(output, features)
        assert [m.shape[1] for m in maps] == CHANNELS
        channels_last = model.forward_intermediates(
            x, indices=[1, 3], output_fmt="NHWC", intermediates_only=True
        )
        assert torch.equal(channels_last[0], maps[1].permute(0, 2, 3, 1))
        assert [m.shape[1] for m in model.forward_intermediates(x, 2)[1]] == CHANNELS[2:]
        last, early = model.forward_intermediates(x, indices=[0, 1], stop_early=True)
        assert torch.equal(last, maps[1]) and torch.equal(early[0], maps[0])
        normed = model.forward_intermediates(x, norm=True, intermediates_only=True)
        assert torch.equal(normed[2], maps[2])
        changes = not torch.equal(normed[3], maps[3])
        assert changes == (name == "lvt_cls")
    with pytest.raises(ValueError, match="output_fmt is 'NLC'"):
        model.forward_intermediates(x, output_fmt="NLC")


def test_early_stop_saves_work(monkeypatch):
    model = create("lvt").eval()
    monkeypatch.setattr(model.backbone.stages[2], "forward", lambda *_, **__: pytest.fail("ran"))
    model.forward_intermediates(torch.randn(1, 3, 64, 64), indices=[1], stop_early=True)


@every_model
def test_pruning(name):
    model = create(name).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = model(x)
        assert model.prune_intermediate_layers(4, prune_head=False) == [0, 1, 2, 3]
        assert torch.equal(model(x), expected)
        maps = model.forward_intermediates(x)[1]
        assert model.prune_intermediate_layers([0, -3]) == [0, 1]
        assert model.num_features == 64 and model.num_classes == 0
        output, kept = model.forward_intermediates(x)
        assert torch.equal(kept[1], maps[1]) and torch.equal(output, maps[1])
    assert [n for n, _ in model.named_parameters() if "stages" not in n] == []


@every_model
def test_torchscript(name, tmp_path):
    model = create(name, scriptable=True).eval()
    torch.jit.save(torch.jit.script(model), tmp_path / "model.pt")
    scripted = torch.jit.load(tmp_path / "model.pt")
    with torch.inference_mode():
        for shape in ((1, 3, 64, 64), (2, 3, 70, 97)):
            x = torch.randn(shape)
            torch.testing.assert_close(scripted(x), model(x), rtol=0, atol=1e-5)


@every_model
def test_symbolic_trace(name):
    model = create(name).eval()
    traced = torch.fx.symbolic_trace(model)
    with torch.inference_mode():
        for shape in ((1, 3, 64, 64), (2, 3, 70, 97)):
            x = torch.randn(shape)
            torch.testing.assert_close(traced(x), model(x), rtol=0, atol=1e-5)
        with pytest.raises(ValueError, match="at least 32 a side"):
            traced(torch.randn(1, 3, 31, 64))


@every_model
def test_export(name):
    model = small(name).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    x = torch.randn(2, 3, 64, 96)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},)).module()
    with torch.inference_mode():
        for size in (2, 5):
            x = torch.randn(size, 3, 64, 96)
            torch.testing.assert_close(program(x), model(x), rtol=0, atol=1e-5)


@every_model
def test_channels_last_memory(name):
    model = create(name).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model(x)
        model = model.to(memory_format=torch.channels_last)
        actual = model(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@every_model
def test_deterministic(name):
    outputs = []
    for _ in range(2):
        model = create(name, drop_rate=0.2, drop_path_rate=0.2).train()
        torch.manual_seed(3)
        outputs.append(model(torch.randn(2, 3, 64, 64)))
    assert torch.equal(*outputs)


@every_model
def test_bfloat16_autocast(name):
    model = create(name).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(torch.randn(2, 3, 64, 64))
    output.float().mean().backward()
    assert without_gradient(model) == []


@every_model
def test_gradient_checkpointing(name):
    gradients = []
    for enable in (False, True):
        model = small(name).train()
        model.set_grad_checkpointing(enable)
        assert model.backbone.use_checkpoint == enable
        x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        model(x).square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@every_model
@pytest.mark.parametrize("coarse", [False, True])
def test_groups_by_depth(name, coarse):
    model = create(name)
    depth = group_parameters(model, model.group_matcher(coarse), reverse=True)
    assert set(depth) == {n for n, _ in model.named_parameters()}
    order = ["backbone.stages.0.patch_embed.proj.weight", "backbone.stages.0.blocks.1.norm1.bias"]
    order += ["backbone.stages.2.patch_embed.norm.bias", "backbone.stages.3.blocks.1.mlp.fc2.bias"]
    if name == "lvt_cls":
        order += ["cls_token", "class_blocks.1.norm1.bias", "head.weight"]
        assert depth["norm.weight"] == depth["class_blocks.1.norm1.bias"]
        assert depth["aux_head.bias"] == depth["head.bias"]
    else:
        order += ["head.fc.weight"]
    depths = [depth[n] for n in order]
    assert depths[0] == 0 and depths == sorted(set(depths))
    blocks = [depth[f"backbone.stages.1.blocks.{i}.norm1.bias"] for i in (0, 1)]
    assert (blocks[0] == blocks[1]) == coarse
    groups = create_optimizer_v2(model, "adamw", lr=1e-3, layer_decay=0.5).param_groups
    assert len({group["lr_scale"] for group in groups}) > 4


@every_model
def test_optimizer_leaves_norms_and_class_token_undecayed(name):
    model = create(name)
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05)
    names = {id(p): n for n, p in model.named_parameters()}
    free = [g for g in optimizer.param_groups if g["weight_decay"] == 0]
    found = {names[id(p)] for group in free for p in group["params"]}
    vectors = {n for n, p in model.named_parameters() if p.ndim == 1}
    assert found == vectors | model.no_weight_decay()
    assert model.no_weight_decay() == ({"cls_token"} if name == "lvt_cls" else set())


@every_model
def test_recommended_size(name):
    config = resolve_model_data_config(small(name, img_size=96))
    assert config["input_size"] == (3, 96, 96)
    model = small(name, img_size=(64, 100))
    assert model.pretrained_cfg["input_size"] == (3, 64, 100)
    assert model.pretrained_cfg["pool_size"] == (2, 4)
    assert model(torch.randn(1, 3, 40, 32)).shape == (1, 5)
    with pytest.raises(ValueError, match="img_size is 31; LVT needs at least 32"):
        small(name, img_size=31)


@every_model
def test_arguments_of_the_backbone(name):
    model = create(name, drop_path_rate=0.7, recursions=1, atrous_rates=(1, 2), freeze_at=1)
    rates = [getattr(b.drop_path, "p", 0.0) for s in model.backbone.stages for b in s.blocks]
    assert rates == pytest.approx([0.1 * i for i in range(8)])
    assert model.backbone.stages[1].blocks[0].attn.recursions == 1
    assert not model.backbone.stages[0].patch_embed.proj.weight.requires_grad
    for wrong in ({"unknown": 1}, {"out_features": ("res2",)}):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            create(name, **wrong)


@every_model
def test_dropout_of_the_head(name):
    model = small(name, drop_rate=0.5).train()
    x = torch.randn(4, 3, 64, 64)
    assert not torch.equal(model(x), model(x))
