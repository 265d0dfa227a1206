"""CSA against its definition, written as loops in float64."""

import pytest
import torch
import torch.nn.functional as F

from lvt_d2.layers import CSA
from lvt_d2.layers.csa import fold_windows, gather_windows


def slow_csa(layer: CSA, x: torch.Tensor) -> torch.Tensor:
    """Window by window, pixel by pixel, as the paper defines it; x is (B, H, W, C)."""
    B, H, W, C = x.shape
    heads, d = layer.num_heads, C // layer.num_heads
    total = torch.zeros_like(x)
    for b in range(B):
        for i in range((H + 1) // 2):
            for j in range((W + 1) // 2):
                inside = x[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(-1, C)
                logits = layer.attention(inside.mean(0)) * d**-0.5
                attention = logits.view(heads, 9, 9).softmax(-1)
                values = []
                for p in range(9):
                    row, column = 2 * i + p // 3 - 1, 2 * j + p % 3 - 1
                    if 0 <= row < H and 0 <= column < W:
                        values.append(layer.value_weight[p] @ x[b, row, column])
                    else:
                        values.append(x.new_zeros(C))
                values = torch.stack(values).view(9, heads, d)
                for q in range(9):
                    row, column = 2 * i + q // 3 - 1, 2 * j + q % 3 - 1
                    if 0 <= row < H and 0 <= column < W:
                        out = torch.einsum("hp,phd->hd", attention[:, q], values)
                        total[b, row, column] += out.flatten()
    return layer.proj(total)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4), (5, 6), (7, 5)])
@pytest.mark.parametrize("num_heads", [1, 2])
def test_equals_definition(size, num_heads):
    torch.manual_seed(0)
    layer = CSA(8, num_heads).double()
    torch.nn.init.normal_(layer.attention.weight)
    torch.nn.init.normal_(layer.attention.bias)
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), slow_csa(layer, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_gather_and_fold_are_adjoint_and_equal_unfold(size):
    torch.manual_seed(0)
    x = torch.randn(2, *size, 3, dtype=torch.float64)
    windows = gather_windows(x)
    unfolded = F.unfold(x.permute(0, 3, 1, 2), 3, padding=1, stride=2)  # (B, C*9, L)
    expected = unfolded.view(2, 3, 9, *windows.shape[2:4]).permute(2, 0, 3, 4, 1)
    torch.testing.assert_close(windows, expected)
    y = torch.randn_like(windows)
    torch.testing.assert_close((windows * y).sum(), (x * fold_windows(y, *size)).sum())


def test_gradients():
    torch.manual_seed(0)
    layer = CSA(4, 2).double()
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_empty_batch_and_bad_heads():
    assert CSA(8, 2)(torch.randn(0, 4, 4, 8)).shape == (0, 4, 4, 8)
    with pytest.raises(ValueError, match="dim 8 is not divisible by num_heads 3"):
        CSA(8, 3)
