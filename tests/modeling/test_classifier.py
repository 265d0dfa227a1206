"""Class attention, mix-token, and the classifier's modes."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from lvt_d2.layers.class_attention import ClassAttention, ClassBlock
from lvt_d2.modeling import LVT
from lvt_d2.modeling.classifier import LVTClassifier, PooledLVT
from lvt_d2.modeling.mix_token import Box, BoxSampler, mix

SMALL = dict(embed_dims=(8, 8, 16, 16), num_heads=(1, 1, 2, 2), depths=(1, 1, 1, 1))


def small(**options):
    return LVTClassifier(LVT(**SMALL), **{"num_classes": 5, "class_heads": 2, **options})


def slow_class_attention(layer, x):
    """One head, one image at a time, in loops."""
    B, N, C = x.shape
    d = C // layer.num_heads
    outputs = []
    for tokens in x:
        q, kv = layer.q.weight @ tokens[0], tokens @ layer.kv.weight.T
        heads = []
        for h in range(layer.num_heads):
            part = slice(h * d, (h + 1) * d)
            k, v = kv[:, :C][:, part], kv[:, C:][:, part]
            scores = [torch.dot(q[part], k[n]) / math.sqrt(d) for n in range(N)]
            heads.append(sum(w * v[n] for n, w in enumerate(torch.stack(scores).softmax(0))))
        outputs.append(layer.proj.weight @ torch.cat(heads) + layer.proj.bias)
    return torch.stack(outputs)[:, None]


@pytest.mark.parametrize("tokens", [1, 2, 7])
def test_class_attention_against_loops(tokens):
    layer = ClassAttention(12, 3).double()
    nn.init.normal_(layer.kv.weight)
    x = torch.randn(2, tokens, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(x), slow_class_attention(layer, x), rtol=0, atol=1e-12)


def test_class_attention_needs_divisible_heads():
    with pytest.raises(ValueError, match="dim 10 is not divisible by num_heads 4"):
        ClassAttention(10, 4)


def test_class_block_updates_the_class_token_only():
    block = ClassBlock(8, 2)
    x = torch.randn(3, 5, 8)
    y = block(x)
    assert torch.equal(y[:, 1:], x[:, 1:])
    assert not torch.isclose(y[:, 0], x[:, 0]).all()
    assert block.mlp.fc1.out_features == 32 and block.mlp.dwconv is None


def test_initial_weights():
    model = small(class_depth=3)
    assert len(model.class_blocks) == 3
    for layer in (model.head, model.aux_head, *(b.attn.proj for b in model.class_blocks)):
        assert 0.01 < layer.weight.std() < 0.03 and not layer.bias.any()
    assert 0.005 < model.cls_token.std() < 0.05


def test_box_and_its_mask():
    box = Box(1, 0, 3, 2)
    assert box.area == 4
    expected = torch.zeros(4, 3, dtype=torch.bool)
    expected[1:3, :2] = True
    assert torch.equal(box.mask(4, 3), expected)
    assert Box(2, 2, 2, 2).area == 0 and not Box(2, 2, 2, 2).mask(4, 4).any()


def test_boxes_have_the_stated_distribution():
    sampler = BoxSampler(3)
    boxes = [sampler(20, 10) for _ in range(4000)]
    assert all(0 <= b.top <= b.bottom <= 20 and 0 <= b.left <= b.right <= 10 for b in boxes)
    lam = np.random.RandomState(0).beta(1, 1, 4000)
    sides = np.sqrt(1 - lam)
    centres = np.random.RandomState(1).randint(10, size=4000)
    half = (10 * sides).astype(int) // 2
    widths = np.minimum(centres + half, 10) - np.maximum(centres - half, 0)
    assert np.mean([b.right - b.left for b in boxes]) == pytest.approx(widths.mean(), rel=0.03)
    tall = np.array([b.bottom - b.top for b in boxes]) / 20
    wide = np.array([b.right - b.left for b in boxes]) / 10
    assert np.corrcoef(tall, wide)[0, 1] > 0.5  # both follow the one lambda


def test_boxes_are_reproducible_and_resumable(tmp_path):
    first, second = BoxSampler(7), BoxSampler(8)
    assert [first(9, 9) for _ in range(8)] != [second(9, 9) for _ in range(8)]
    torch.save(first.state_dict(), tmp_path / "state.pth")
    expected = [first(9, 9) for _ in range(8)]
    resumed = BoxSampler()
    resumed.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    assert [resumed(9, 9) for _ in range(8)] == expected
    first.seed(7), second.seed(7)
    assert first(9, 9) == second(9, 9)


def test_unseeded_boxes_follow_torchs_seed_and_disturb_no_generator():
    np.random.seed(5)
    expected = np.random.RandomState(5).rand()
    boxes = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        sampler = BoxSampler()
        boxes.append([sampler(9, 9) for _ in range(8)])
    assert boxes[0] == boxes[1] != boxes[2]
    assert np.random.rand() == expected


def test_mix_against_slices():
    x = torch.randn(3, 16, 8, 4)
    box = Box(0, 1, 3, 2)
    mixed = mix(x, box.mask(4, 2))
    expected = x.clone()
    expected[:, 0:12, 4:8] = x.flip(0)[:, 0:12, 4:8]
    assert torch.equal(mixed, expected)
    assert torch.equal(mix(mixed, box.mask(4, 2)), x)


def test_training_output_of_a_box_over_everything():
    """Every image is another one whole: its tokens come back swapped."""
    model = small(token_labels=True).train()
    x = torch.randn(4, 3, 64, 96)
    with torch.no_grad():
        swapped = model.forward_train(x, Box(0, 0, 2, 3))
        plain = model.forward_train(x, Box(0, 0, 0, 0))
    torch.testing.assert_close(swapped[0], plain[0].flip(0))
    torch.testing.assert_close(swapped[1], plain[1])


def test_tokens_are_mixed_after_the_stem_and_swapped_back():
    model = small(token_labels=True).train()
    x = torch.randn(2, 3, 64, 64)
    box = Box(0, 1, 2, 2)
    with torch.no_grad():
        _, tokens, _ = model.forward_train(x, box)
        stem = model.backbone.stem(x)
        stem[:, :, 8:] = stem.flip(0)[:, :, 8:].clone()
        last = model.backbone.forward_stages(stem)["res5"]
        logits = model.aux_head(model._finish(last)[:, 1:]).unflatten(1, (2, 2))
    expected = logits.clone()
    expected[:, :, 1:] = logits.flip(0)[:, :, 1:]
    torch.testing.assert_close(tokens, expected.flatten(1, 2))


def test_modes():
    model = small(drop_rate=0.0)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model.eval()(x)
        torch.testing.assert_close(model.train()(x), expected)  # ordinary labels
        model.token_labels = True
        torch.testing.assert_close(model.eval()(x), expected)
        classes, tokens, box = model.train()(x)
    assert classes.shape == (2, 5) and tokens.shape == (2, 4, 5) and isinstance(box, Box)
    model.mix_token = False
    classes, tokens, box = model(torch.randn(2, 3, 65, 50))  # any size, where nothing is mixed
    assert tokens.shape == (2, 6, 5) and box == (0, 0, 0, 0)
    with torch.no_grad():
        classes, tokens, _ = model(x)
    torch.testing.assert_close(classes + 0.5 * tokens.amax(1), expected)


def test_boxes_of_the_model_come_from_its_sampler():
    model = small(token_labels=True).train()
    model.box_sampler.seed(11)
    expected = BoxSampler(11)
    for size in ((64, 64), (96, 32)):
        *_, box = model(torch.randn(2, 3, *size))
        assert box == expected(size[0] // 32, size[1] // 32)
    assert copy.deepcopy(model).box_sampler(7, 7) == model.box_sampler(7, 7)
    assert not [name for name in model.state_dict() if "box" in name]


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_batches(batch):
    model = small(token_labels=True)
    x = torch.randn(batch, 3, 64, 64)
    assert model.eval()(x).shape == (batch, 5)
    classes, tokens, _ = model.train()(x)
    assert classes.shape == (batch, 5) and tokens.shape == (batch, 4, 5)


@pytest.mark.parametrize("token_labels", [False, True])
def test_every_parameter_gets_a_gradient(token_labels):
    model = small(token_labels=token_labels).train()
    output = model(torch.randn(2, 3, 64, 64))
    outputs = output[:2] if token_labels else (output,)
    sum(o.square().mean() for o in outputs).backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="needs torch 2.6")
def test_compiled_training_does_not_recompile_for_every_box():
    model = small(token_labels=True, drop_rate=0.1).train()
    model.box_sampler.seed(0)
    compiled = torch.compile(model, backend="eager")
    x = torch.randn(2, 3, 96, 96)
    boxes = {compiled(x)[2] for _ in range(3)}
    with torch.compiler.set_stance("fail_on_recompile"):
        boxes |= {compiled(x)[2] for _ in range(12)}
    assert len(boxes) > 4


@pytest.mark.parametrize(
    "option", [{"global_pool": "avg"}, {"class_depth": 1}, {"class_heads": 4}], ids=str
)
def test_options_change_the_output(option):
    outputs = []
    for options in ({}, option):
        torch.manual_seed(0)
        model = small(**options).eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
        torch.manual_seed(1)
        with torch.no_grad():
            outputs.append(model(torch.randn(1, 3, 64, 64)))
    assert not torch.allclose(*outputs)


def test_dropout_acts_in_training_only():
    model = small(drop_rate=0.5)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), model(x))
        assert not torch.equal(model.train()(x), model(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_pool": "max"}, "global_pool is 'max'; expected 'token' or 'avg'"),
        ({"global_pool": ""}, "global_pool is ''; .* with num_classes=0"),
        ({"class_heads": 3}, "dim 16 is not divisible by num_heads 3"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)
    with pytest.raises(TypeError):
        small(unknown=1)


def test_bad_input():
    model = small(token_labels=True).train()
    with pytest.raises(ValueError, match="mix-token got images of 64x80 pixels; expected sides"):
        model(torch.randn(2, 3, 64, 80))
    with pytest.raises(ValueError, match="31x64 pixels; LVT needs at least 32"):
        model.eval()(torch.randn(1, 3, 31, 64))
    with pytest.raises(ValueError, match="needs classes; num_classes is 0"):
        small(num_classes=0, token_labels=True).train()(torch.randn(2, 3, 64, 64))
    with pytest.raises(ValueError, match=r"the backbone returns \('res5',\)"):
        PooledLVT(LVT(**SMALL, out_features=("res5",)))
