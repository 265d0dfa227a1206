"""Normalisation layers, against torch's and slow references."""

import math
import subprocess
import sys
import textwrap
from functools import partial

import pytest
import torch
from detectron2.layers import (
    Conv2d,
    FrozenBatchNorm2d,
    LayerNorm,
    NaiveSyncBatchNorm,
    get_norm,
)
from torch import nn
from torch.nn import functional as F

HALF = [torch.float16, torch.bfloat16]


def trained_norm(norm):
    """Numbers in a norm as after training."""
    generator = torch.Generator().manual_seed(0)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return norm


@pytest.mark.parametrize(
    "name, kind",
    [
        ("BN", nn.BatchNorm2d),
        ("SyncBN", nn.SyncBatchNorm),
        ("nnSyncBN", nn.SyncBatchNorm),
        ("FrozenBN", FrozenBatchNorm2d),
        ("GN", nn.GroupNorm),
        ("naiveSyncBN", NaiveSyncBatchNorm),
        ("naiveSyncBN_N", NaiveSyncBatchNorm),
        ("LN", LayerNorm),
    ],
)
def test_get_norm(name, kind):
    norm = get_norm(name, 64)
    assert type(norm) is kind and norm.weight.shape == (64,)
    if name == "GN":
        assert norm.num_groups == 32
    if kind is NaiveSyncBatchNorm:
        assert norm._stats_mode == ("N" if name.endswith("_N") else "")


def test_get_norm_of_callables_and_nothing():
    assert get_norm("", 4) is None and get_norm(None, 4) is None
    groups = get_norm(partial(nn.GroupNorm, 12), 48)
    assert isinstance(groups, nn.GroupNorm) and groups.num_channels == 48
    with pytest.raises(KeyError, match="BatchNorm3000"):
        get_norm("BatchNorm3000", 4)


def test_frozen_norm_is_batch_norm():
    norm = trained_norm(nn.BatchNorm2d(4, eps=1e-3)).eval()
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(norm)
    assert type(frozen) is FrozenBatchNorm2d and frozen.eps == 1e-3
    assert not list(frozen.parameters())
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(frozen(x), norm(x))
    with_gradient = x.clone().requires_grad_()
    torch.testing.assert_close(frozen(with_gradient), norm(x))
    frozen(with_gradient).sum().backward()
    assert with_gradient.grad is not None
    frozen.train()
    torch.testing.assert_close(frozen(x), norm(x))
    assert frozen(x[:0]).shape == (0, 4, 3, 3)
    assert repr(frozen) == "FrozenBatchNorm2d(num_features=4, eps=0.001)"


def test_new_frozen_norm_is_the_identity():
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(FrozenBatchNorm2d(4)(x), x)


@pytest.mark.parametrize("dtype", HALF)
def test_frozen_norm_in_half_precision(dtype):
    frozen = FrozenBatchNorm2d(4)
    x = torch.randn(2, 4, 3, 3).to(dtype)
    for given in (x, x.clone().requires_grad_()):
        assert frozen(given).dtype == dtype
        torch.testing.assert_close(frozen(given), x, rtol=2e-2, atol=1e-2)


def test_conversion_of_a_model_and_back():
    model = nn.Sequential(Conv2d(3, 4, 1, norm=trained_norm(nn.BatchNorm2d(4))), nn.ReLU())
    model.add_module("sync", trained_norm(nn.SyncBatchNorm(4)))
    model.add_module("plain", nn.BatchNorm2d(4, affine=False))
    model.eval()
    x = torch.randn(2, 3, 5, 5)
    expected = model[3](F.batch_norm(model[1](model[0](x)), *norm_numbers(model.sync)))
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(model)
    assert frozen is model
    kinds = [type(m) for m in model.modules() if "Norm" in type(m).__name__]
    assert kinds == [FrozenBatchNorm2d] * 3
    torch.testing.assert_close(model(x), expected)
    back = FrozenBatchNorm2d.convert_frozenbatchnorm2d_to_batchnorm2d(model).eval()
    kinds = [type(m) for m in back.modules() if "Norm" in type(m).__name__]
    assert kinds == [nn.BatchNorm2d] * 3
    torch.testing.assert_close(back(x), expected)


def norm_numbers(norm):
    return norm.running_mean, norm.running_var, norm.weight, norm.bias


def test_frozen_norm_loads_batch_norm_and_old_files():
    norm = trained_norm(nn.BatchNorm2d(4))
    frozen = FrozenBatchNorm2d(4)
    assert set(frozen.state_dict()) == {"weight", "bias", "running_mean", "running_var"}
    result = frozen.load_state_dict(norm.state_dict(), strict=False)
    assert not result.missing_keys and result.unexpected_keys == ["num_batches_tracked"]
    assert torch.equal(frozen.running_var, norm.running_var)

    old = {"weight": torch.full((4,), 2.0), "bias": torch.ones(4)}
    frozen.load_state_dict(dict(old))
    assert frozen.running_mean.tolist() == [0] * 4 and frozen.running_var.tolist() == [1] * 4
    newer = frozen.state_dict()
    assert newer._metadata[""]["version"] == 3
    del newer["running_mean"]
    with pytest.raises(RuntimeError, match="running_mean"):
        frozen.load_state_dict(newer)


def test_layer_norm_over_channels():
    norm = LayerNorm(6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, 3, 5)
    expected = F.layer_norm(x.permute(0, 2, 3, 1), (6,), norm.weight, norm.bias, 1e-6)
    torch.testing.assert_close(norm(x), expected.permute(0, 3, 1, 2))
    assert norm.eps == 1e-6 and norm.normalized_shape == (6,)
    assert norm(x[:0]).shape == (0, 6, 3, 5)


@pytest.mark.parametrize("mode", ["", "N"])
def test_naive_sync_norm_in_one_process(mode):
    norm, plain = NaiveSyncBatchNorm(3, stats_mode=mode), nn.BatchNorm2d(3)
    x = torch.randn(4, 3, 5, 5)
    assert torch.equal(norm(x), plain(x)) and torch.equal(norm.running_var, plain.running_var)
    with pytest.raises(AssertionError):
        NaiveSyncBatchNorm(3, stats_mode="M")


WORKER = """
    import os, sys, torch, lvt_d2, torch.distributed as dist
    from detectron2.layers import NaiveSyncBatchNorm
    torch.set_num_threads(1)
    folder, child = sys.argv[1], os.fork()  # after the imports, which take longest
    rank = int(child == 0)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    images = torch.load(f"{folder}/x.pt", weights_only=True)
    results = {}
    cases = {"": ("", slice(2 * rank, 2 * rank + 2)), "N": ("N", slice(3 * rank, 3 + rank)),
             "some": ("N", slice(0, 0) if rank else slice(0, 4)), "none": ("N", slice(0, 0)),
             "half": ("", slice(2 * rank, 2 * rank + 2))}
    for name, (mode, part) in cases.items():
        norm = NaiveSyncBatchNorm(3, stats_mode=mode)
        x = images[part].clone()
        x = (x.bfloat16() if name == "half" else x).requires_grad_()
        y = norm(x)
        (y.float() * torch.arange(float(y.numel())).reshape(y.shape).cos()).sum().backward()
        results[name] = [y.detach(), x.grad, norm.running_mean, norm.running_var]
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
    if child:
        sys.exit(os.waitpid(child, 0)[1] != 0)
"""


def test_naive_sync_norm_in_two_processes(tmp_path):
    images = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.save(images, tmp_path / "x.pt")
    worker = [sys.executable, "-c", textwrap.dedent(WORKER), str(tmp_path)]
    subprocess.run(worker, check=True, timeout=120)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]

    def factors(n):
        shape = (n, *images.shape[1:])
        return torch.arange(float(math.prod(shape))).reshape(shape).cos()

    for name, sizes in {"": (2, 2), "N": (3, 1), "some": (4, 0)}.items():
        x = images.clone().requires_grad_()
        y = F.batch_norm(x, None, None, training=True)
        (y * torch.cat([factors(n) for n in sizes])).sum().backward()
        both = [torch.cat(tensors) for tensors in zip(*(r[name][:2] for r in ranks), strict=True)]
        torch.testing.assert_close(both[0], y.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(both[1], x.grad, rtol=1e-3, atol=1e-4)
        for rank in ranks:
            mean, var = images.mean((0, 2, 3)), images.var((0, 2, 3), unbiased=False)
            torch.testing.assert_close(rank[name][2], 0.1 * mean)
            torch.testing.assert_close(rank[name][3], 0.9 + 0.1 * var)
    for rank in ranks:
        assert rank["none"][0].shape == (0, 3, 5, 5) and rank["none"][2].tolist() == [0] * 3
        assert rank["none"][3].tolist() == [1] * 3
        assert rank["half"][0].dtype == torch.bfloat16
        torch.testing.assert_close(rank["half"][0].float(), rank[""][0], rtol=2e-2, atol=3e-2)
