"""The published rule: every layer against a count by loops, and what it leaves out."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import nn

from lvt_d2.analysis.published_rule import count_layers, count_products
from lvt_d2.layers import CSA, MLP, RASA
from lvt_d2.modeling import LVT


def counted(module, *shape, count=count_layers):
    with count(module) as counts:
        module(torch.zeros(*shape))
    return sum(n or 0 for n in counts.values())


def taps(size, kernel, stride=1, padding=0, dilation=1):
    """Positions of a convolution's output along one side, by trying all."""
    last = size + 2 * padding - dilation * (kernel - 1)
    return len(range(0, last, stride))


def test_convolutions_count_weights_and_biases():
    convolution = nn.Conv2d(6, 4, (3, 5), stride=2, padding=1, groups=2)
    positions = taps(9, 3, 2, 1) * taps(11, 5, 2, 1)
    expected = 0
    for _ in itertools.product(range(4), range(positions)):  # every output element
        expected += 3 * 5 * 6 // 2 + 1
    assert counted(convolution, 1, 6, 9, 11) == expected
    transposed = nn.ConvTranspose2d(3, 2, 2, stride=2, bias=False)
    assert counted(transposed, 2, 3, 4, 5) == 2 * 4 * 5 * (2 * 2 * 3 * 2)


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (nn.Linear(4, 5), (3, 7, 4), 21 * 20 + 5),
        (nn.Linear(4, 5, bias=False), (3, 7, 4), 21 * 20),
        (nn.LayerNorm(4), (3, 7, 4), 2 * 84),
        (nn.GroupNorm(2, 4, affine=False), (1, 4, 3, 3), 36),
        (nn.ReLU(), (2, 3), 6),
        (nn.GELU(), (2, 3), 0),
        (nn.AvgPool2d(2), (1, 1, 4, 4), 16),
        (nn.Upsample(scale_factor=2), (1, 1, 4, 4), 64),
    ],
)
def test_small_layers(module, shape, expected):
    assert counted(module, *shape) == expected


def test_activations_that_are_functions_of_a_layer():
    plain = counted(Conv2d(2, 3, 1), 1, 2, 4, 4)
    assert counted(Conv2d(2, 3, 1, activation=F.relu), 1, 2, 4, 4) == plain + 48
    assert counted(Conv2d(2, 3, 1, activation=nn.ReLU()), 1, 2, 4, 4) == plain + 48


def test_mlp():
    linear = 2 * 6 * 8 * 24
    assert counted(MLP(8, 3, depthwise=False), 1, 2, 3, 8) == linear + 24 + 8
    depthwise = 6 * 24 * (9 + 1)
    assert counted(MLP(8, 3, depthwise=True), 1, 2, 3, 8) == linear + 6 * (24 + 8) + depthwise


def test_csa():
    module = CSA(8, 2)
    windows = 0
    for _ in itertools.product(range(0, 5, 2), range(0, 7, 2)):
        windows += 1
    attention = windows * 8 * (2 * 81) + 2 * 81
    values = windows * 9 * 8 * 8
    expected = 5 * 7 * 8 + attention + values + 35 * 8 * 8 + 8
    assert counted(module, 1, 5, 7, 8) == expected
    products = 0
    for _window, _head, _q, _p in itertools.product(range(windows), range(2), range(9), range(9)):
        products += 4  # d
    assert counted(module, 1, 5, 7, 8, count=count_products) == products


@pytest.mark.parametrize("recursions", [1, 2, 3])
@pytest.mark.parametrize("sr_ratio", [1, 2])
def test_rasa(recursions, sr_ratio):
    module = RASA(8, 2, sr_ratio, recursions=recursions)
    B, H, W = 2, 5, 7
    tokens, keys = H * W, (H // sr_ratio) * (W // sr_ratio)
    once = tokens * 64 + keys * 128 + tokens * 64
    if sr_ratio > 1:
        once += keys * (64 * sr_ratio**2 + 8) + 2 * keys * 8
    assert counted(module, B, H, W, 8) == recursions * (B * once + 8)
    products = 0
    for _ in itertools.product(range(recursions), range(B), range(2), range(tokens), range(keys)):
        products += 4 + 4  # d numbers for q k^T, d for A V
    assert counted(module, B, H, W, 8, count=count_products) == products


def test_inner_layers_are_counted_once_and_hooks_are_removed():
    model = LVT(out_features=("res3",)).eval()
    with count_layers(model) as counts:
        model(torch.zeros(1, 3, 64, 64))
        first = dict(counts)
        model(torch.zeros(1, 3, 64, 64))
    assert first["stages.1.blocks.0.attn"] > 0 and first["stages.1.blocks.0.attn.q"] is None
    assert counts == {name: n if n is None else 2 * n for name, n in first.items()}
    model(torch.zeros(1, 3, 64, 64))
    assert counts["stages.1.blocks.0.attn"] == 2 * first["stages.1.blocks.0.attn"]
