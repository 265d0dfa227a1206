"""RASA against its definition, with explicit softmax and convolutions by hand."""

import pytest
import torch
import torch.nn.functional as F

from lvt_d2.layers import RASA, AtrousQuery


def slow_atrous(layer: AtrousQuery, q: torch.Tensor) -> torch.Tensor:
    """Pixel by pixel: (B, H, W, C) -> (B, H, W, C)."""
    _, H, W, _ = q.shape
    total = torch.zeros_like(q)
    for rate in layer.rates:
        branch = torch.zeros_like(q)
        for i in range(H):
            for j in range(W):
                for a in range(3):
                    for b in range(3):
                        row, column = i + (a - 1) * rate, j + (b - 1) * rate
                        if 0 <= row < H and 0 <= column < W:
                            branch[:, i, j] += layer.weight[:, 0, a, b] * q[:, row, column]
        total += branch * torch.sigmoid(branch)
    return total


def slow_attend(layer: RASA, x: torch.Tensor) -> torch.Tensor:
    B, H, W, C = x.shape
    d = C // layer.num_heads
    q = slow_atrous(layer.atrous, layer.q(x)).reshape(B, H * W, C)
    reduced = x
    if layer.sr_ratio > 1:
        r = layer.sr_ratio
        h, w = H // r, W // r
        patches = x[:, : h * r, : w * r].reshape(B, h, r, w, r, C)
        reduced = torch.einsum("bhiwjc,ocij->bhwo", patches, layer.sr.weight) + layer.sr.bias
        reduced = F.layer_norm(reduced, (C,), layer.sr_norm.weight, layer.sr_norm.bias, 1e-5)
    reduced = reduced.reshape(B, -1, C)
    k, v = reduced @ layer.kv.weight[:C].T, reduced @ layer.kv.weight[C:].T
    heads = []
    for n in range(layer.num_heads):
        s = slice(n * d, (n + 1) * d)
        attention = (q[..., s] @ k[..., s].transpose(1, 2) * d**-0.5).softmax(-1)
        heads.append(attention @ v[..., s])
    return layer.proj(torch.cat(heads, -1)).reshape(B, H, W, C)


@pytest.mark.parametrize("sr_ratio", [1, 2, 4])
@pytest.mark.parametrize("recursions", [1, 2, 3])
@pytest.mark.parametrize("rates", [(1, 3, 5), (2,)])
def test_equals_definition(sr_ratio, recursions, rates):
    torch.manual_seed(0)
    layer = RASA(8, 2, sr_ratio, rates, recursions).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 5, 6, 8, dtype=torch.float64)
    if recursions == 1:
        expected = slow_attend(layer, x)
    else:
        state, expected = x, F.silu(slow_attend(layer, x))
        for _ in range(recursions - 1):
            state = expected + state
            expected = F.silu(slow_attend(layer, state))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-11)


def test_shared_kernel_costs_the_same_at_any_number_of_rates():
    count = [
        sum(p.numel() for p in RASA(16, 2, 1, rates).parameters()) for rates in [(1,), (1, 3, 5)]
    ]
    assert count[0] == count[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 8, "num_heads": 3}, "not divisible by num_heads 3"),
        ({"dim": 8, "num_heads": 2, "recursions": 0}, "recursions is 0"),
        ({"dim": 8, "num_heads": 2, "atrous_rates": ()}, "rates is"),
        ({"dim": 8, "num_heads": 2, "atrous_rates": (0,)}, "rates is"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RASA(**arguments)


def test_small_map():
    with pytest.raises(ValueError, match="smaller than sr_ratio 4"):
        RASA(8, 2, sr_ratio=4)(torch.randn(1, 3, 8, 8))
