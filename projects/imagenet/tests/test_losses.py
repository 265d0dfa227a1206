"""Losses against the recorded ones, and against what their formulas say."""

import json

import numpy as np
import pytest
import torch
from lvt_imagenet.losses import SoftTargetCrossEntropy, TokenLabelCrossEntropy, soft_cross_entropy

TOLERANCE = 1e-4  # of the recorded numbers


@pytest.fixture(scope="module")
def recorded(goldens, synth):
    """Losses by name, outputs of the model, and the targets they belong to."""
    folder = goldens / "official"
    content = json.loads((folder / "cls.json").read_text())
    arrays = np.load(folder / "cls.npz")
    seed = content["train"]["seed"]
    cls, aux = (torch.from_numpy(arrays[name]) for name in ("train_cls", "train_aux"))
    B, N, K = aux.shape
    return (
        content["losses"],
        (cls, aux, tuple(content["train"]["box"])),
        torch.from_numpy(synth.token_targets(100 + seed, B, K, N)),
        torch.from_numpy(synth.token_targets(200 + seed, B, K)),
    )


@pytest.mark.parametrize("weight", [1.0, 0.5])
@pytest.mark.parametrize("kind", ["map", "2d"])
@pytest.mark.parametrize("ground_truth", [False, True])
def test_recorded_token_label_losses(recorded, weight, kind, ground_truth):
    losses, outputs, dense, flat = recorded
    loss = TokenLabelCrossEntropy(dense_weight=weight, ground_truth=ground_truth)
    name = f"TokenLabel{'GT' if ground_truth else ''}CrossEntropy_{kind}_dw{weight:g}"
    value = loss(outputs, dense if kind == "map" else flat)
    assert value.item() == pytest.approx(losses[name], abs=TOLERANCE)


def test_recorded_agreement(recorded):
    losses, outputs, dense, _ = recorded
    target = dense.clone()
    target[0, :, 1] = target[0, :, 0]
    value = TokenLabelCrossEntropy(ground_truth=True)(outputs, target)
    expected = losses["TokenLabelGTCrossEntropy_map_agree0_dw0.5"]
    assert value.item() == pytest.approx(expected, abs=TOLERANCE)


def test_recorded_empty_box(recorded):
    losses, (cls, aux, _), dense, _ = recorded
    value = TokenLabelCrossEntropy()((cls, aux, (2, 3, 2, 5)), dense)
    expected = losses["TokenLabelCrossEntropy_map_emptybox_dw0.5"]
    assert value.item() == pytest.approx(expected, abs=TOLERANCE)


def test_recorded_soft_targets(recorded):
    losses, (cls, _, _), dense, flat = recorded
    loss = SoftTargetCrossEntropy()
    for name, value in {
        "SoftTargetCrossEntropy": loss(cls, flat),
        "SoftTarget_on_cls_stack_B_C_2": loss(cls, dense[:, :, :2]),
        "SoftTarget_repeat": loss(torch.cat([cls, 0.5 * cls]), flat),
    }.items():
        assert value.item() == pytest.approx(losses[name], abs=TOLERANCE), name


def _random(B=2, N=6, K=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    cls, aux = (torch.randn(*shape, K, generator=generator) for shape in ((B,), (B, N)))
    target = torch.randn(B, K, 2 + N, generator=generator).softmax(1)
    return cls, aux, target


def test_share_of_each_image_is_that_of_its_tokens():
    cls, aux, target = _random()
    mixed = TokenLabelCrossEntropy(dense_weight=0)((cls, aux, (0, 1, 2, 2)), target)
    label = target[:, :, 1]
    expected = soft_cross_entropy(cls, label * 4 / 6 + label.flip(0) * 2 / 6)
    torch.testing.assert_close(mixed, expected)


def test_weights_and_their_terms():
    cls, aux, target = _random()
    outputs = cls, aux, (0, 0, 0, 0)
    only_cls = TokenLabelCrossEntropy(dense_weight=0)(outputs, target)
    only_dense = TokenLabelCrossEntropy(dense_weight=1, cls_weight=0)(outputs, target)
    both = TokenLabelCrossEntropy(dense_weight=0.3, cls_weight=2)(outputs, target)
    torch.testing.assert_close(both, 2 * only_cls + 0.3 * only_dense)
    loop = [
        torch.nn.functional.cross_entropy(aux[b, n], target[b, :, 2 + n])
        for b in range(len(aux))
        for n in range(aux.shape[1])
    ]
    torch.testing.assert_close(only_dense, torch.stack(loop).mean())


def test_two_columns_give_all_tokens_the_label_of_the_image():
    cls, aux, target = _random()
    outputs = cls, aux, (0, 0, 1, 1)
    loss = TokenLabelCrossEntropy()
    torch.testing.assert_close(loss(outputs, target[:, :, :2]), loss(outputs, target[:, :, 1]))


def test_half_precision_is_summed_in_single():
    cls, aux, target = _random()
    full = TokenLabelCrossEntropy()((cls, aux, (0, 0, 1, 1)), target)
    half = TokenLabelCrossEntropy()((cls.bfloat16(), aux.bfloat16(), (0, 0, 1, 1)), target)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(full.item(), rel=0.01)


def test_every_output_gets_a_gradient():
    cls, aux, target = _random()
    cls.requires_grad_(), aux.requires_grad_()
    TokenLabelCrossEntropy(ground_truth=True)((cls, aux, (0, 0, 1, 2)), target).backward()
    assert cls.grad.abs().min() > 0 and aux.grad.abs().min() > 0


def test_shapes_that_disagree():
    cls, aux, target = _random()
    with pytest.raises(ValueError, match=r"6 tokens of 4 classes.*\(2, 4, 7\).*expected"):
        TokenLabelCrossEntropy()((cls, aux, (0, 0, 0, 0)), target[:, :, :7])
    with pytest.raises(ValueError, match="multiple"):
        SoftTargetCrossEntropy()(torch.zeros(3, 4), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="classes"):
        SoftTargetCrossEntropy()(torch.zeros(2, 5), torch.zeros(2, 4))


def test_it_tells_its_options():
    text = repr(TokenLabelCrossEntropy(0.25, 2.0, True))
    assert "dense_weight=0.25" in text and "cls_weight=2.0" in text and "True" in text
