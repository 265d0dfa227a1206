"""Patch embedding, MLP, block and initial values."""

import math

import pytest
import torch
import torch.nn.functional as F

from lvt_d2.layers import MLP, Block, PatchEmbed, group_norm


@pytest.mark.parametrize(("kernel_size", "stride"), [(7, 4), (3, 2)])
@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_patch_embed(kernel_size, stride, size):
    torch.manual_seed(0)
    layer = PatchEmbed(3, 6, kernel_size, stride)
    x = torch.randn(2, *size, 3)
    y = layer(x)
    assert y.shape == (2, math.ceil(size[0] / stride), math.ceil(size[1] / stride), 6)
    expected = F.conv2d(x.permute(0, 3, 1, 2), layer.proj.weight, layer.proj.bias, stride,
                        kernel_size // 2).permute(0, 2, 3, 1)  # fmt: skip
    expected = (expected - expected.mean(-1, keepdim=True)) / torch.sqrt(
        expected.var(-1, unbiased=False, keepdim=True) + 1e-5
    )
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depthwise", [False, True])
def test_mlp(depthwise):
    torch.manual_seed(0)
    layer = MLP(4, 3, depthwise)
    x = torch.randn(2, 5, 6, 4)
    hidden = layer.fc1(x)
    assert hidden.shape[-1] == 12
    if depthwise:
        hidden = layer.dwconv(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    gelu = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    torch.testing.assert_close(layer(x), layer.fc2(gelu))


def test_block_drops_whole_branches_per_image():
    torch.manual_seed(0)
    block = Block(4, torch.nn.Linear(4, 4), torch.nn.Identity(), drop_path=0.5)
    x = torch.randn(64, 2, 2, 4)
    block.eval()
    y = x + block.attn(block.norm1(x))
    torch.testing.assert_close(block(x), y + block.norm2(y))
    block.train()
    untouched = (block(x) == x).flatten(1).all(1).float().mean().item()
    assert 0.1 < untouched < 0.45  # both branches dropped: a quarter of the images


def test_initial_values():
    torch.manual_seed(0)
    linear, conv = MLP(256, 4, depthwise=False), MLP(256, 4, depthwise=True)
    assert linear.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert conv.fc1.weight.std().item() == pytest.approx(math.sqrt(2 / 1024), rel=0.05)
    assert conv.fc2.weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.05)
    assert conv.dwconv.weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.05)
    patch = PatchEmbed(64, 160, 3, 2)
    assert patch.proj.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 160)), rel=0.05)
    assert all(not m.bias.any() for m in (linear.fc1, linear.fc2, conv.dwconv, patch.proj))


def test_group_norm():
    norm = group_norm(12)(48)
    assert (norm.num_groups, norm.num_channels) == (12, 48)
