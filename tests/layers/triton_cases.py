"""Cases of `test_triton_kernels`, which runs this file in a process of its own.

With TRITON_INTERPRET=1 they run in Triton's interpreter, and on a GPU without.
"""

import logging

import pytest
import torch
from torch import nn

from lvt_d2.layers import CSA, MLP, AtrousQuery
from lvt_d2.layers.kernels import (
    choice,
    fast_path,
    triton_common,
    triton_csa,
    triton_mlp,
    triton_query,
    use_kernels,
)
from lvt_d2.modeling import LVT

DEVICE = "cpu" if triton_common.INTERPRETED else "cuda"
on_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="too slow for the interpreter")

# Name to layer and shape of its input: sizes that are odd, of one pixel, of several tiles; channels
# that fill no power of two; partial sums of several programs.
CASES = {
    "csa": (lambda: CSA(64, 2), (2, 7, 9, 64)),
    "csa, padded channels": (lambda: CSA(48, 3), (1, 6, 3, 48)),
    "csa, one pixel": (lambda: CSA(16, 1), (2, 1, 1, 16)),
    "csa, one row, memory efficient": (lambda: CSA(32, 2, True), (1, 1, 6, 32)),
    "token mlp": (lambda: MLP(64, 4, depthwise=False), (2, 7, 5, 64)),
    "token mlp, tokens": (lambda: MLP(80, 2, depthwise=False, memory_efficient=True), (1, 3, 80)),
    "depthwise mlp": (lambda: MLP(16, 3, depthwise=True), (2, 5, 9, 16)),
    "depthwise mlp, memory efficient": (lambda: MLP(16, 2, True, True), (1, 1, 9, 16)),
    "query": (lambda: AtrousQuery(48), (1, 5, 9, 48)),
    "query, other rates": (lambda: AtrousQuery(16, (2,)), (2, 11, 3, 16)),
    "query, four rates": (lambda: AtrousQuery(32, (1, 2, 4, 7)), (1, 1, 1, 32)),
}
SMALL = {
    "csa": (lambda: CSA(32, 1), (1, 3, 5, 32)),
    "token mlp": (lambda: MLP(32, 2, depthwise=False), (1, 2, 3, 32)),
    "depthwise mlp": (lambda: MLP(16, 2, depthwise=True), (1, 3, 4, 16)),
    "query": (lambda: AtrousQuery(16), (1, 3, 6, 16)),
}


@pytest.fixture(autouse=True)
def exact_convolutions(monkeypatch):
    """On GPUs the reference's convolutions are rounded to TensorFloat-32 by default."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def few_programs(monkeypatch):
    """Programs that sum several tiles, and partial sums of several programs."""
    monkeypatch.setattr(triton_csa, "ROWS", 16)
    for module in (triton_csa, triton_mlp, triton_query):
        monkeypatch.setattr(module, "splits", lambda tiles, programs: min(tiles, 2))


def made(case, dtype=torch.float32):
    """A case's layer with large weights, and its input."""
    torch.manual_seed(0)
    layer, shape = case[0](), case[1]
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer.to(DEVICE, dtype), torch.randn(shape).to(DEVICE, dtype)


def results(layer, x, kind: str) -> list[torch.Tensor]:
    """Output, gradient of the input and of every parameter."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    with use_kernels(kind):
        y = layer(x)
        weights = torch.linspace(-1, 1, max(y.numel(), 1), device=y.device)[: y.numel()]
        (y * weights.view_as(y)).sum().backward()
    return [y.detach(), x.grad, *(p.grad.clone() for p in layer.parameters())]


def uses_triton(layer, x) -> bool:
    with use_kernels("triton"):
        return fast_path(layer.operation, x) is choice._triton(layer.operation)


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_equal_the_reference(name, few_programs):
    layer, x = made(CASES[name])
    assert uses_triton(layer, x)
    expected, found = (results(layer, x, kind) for kind in ("reference", "triton"))
    for index, (e, f) in enumerate(zip(expected, found, strict=True)):
        assert f.shape == e.shape and f.dtype == e.dtype
        error = (f - e).abs().max() / e.abs().max().clamp(min=1)
        assert error <= (2e-5 if index == 0 else 1e-4), (index, error)
    with use_kernels("triton"), torch.no_grad():
        torch.testing.assert_close(layer(x), found[0], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_half_precision(name, dtype):
    layer, x = made(SMALL[name], dtype)
    assert uses_triton(layer, x)
    expected, found = (results(layer, x, kind) for kind in ("reference", "triton"))
    for e, f in zip(expected, found, strict=True):
        assert f.dtype == e.dtype
        error = (f.double() - e.double()).norm() / e.double().norm()
        assert error < (0.003 if dtype is torch.float16 else 0.02)


@pytest.mark.parametrize("name", SMALL)
def test_training_under_autocast(name):
    layer, x = made(SMALL[name])
    collected = []
    for kind in ("reference", "triton"):
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            collected.append(results(layer, x, kind))
    for e, f in zip(*collected, strict=True):
        assert f.dtype == e.dtype
        assert (f.double() - e.double()).norm() < 0.03 * e.double().norm()


@pytest.mark.parametrize("name", SMALL)
def test_gradients_of_a_frozen_layer_and_of_a_fixed_input(name):
    layer, x = made(SMALL[name])
    expected = results(layer, x, "reference")
    with use_kernels("triton"):
        layer.zero_grad()
        layer(x).sum().backward()
        assert all(p.grad is not None for p in layer.parameters())
        layer.requires_grad_(False)
        y = layer(x.requires_grad_())
        weights = torch.linspace(-1, 1, y.numel(), device=y.device).view_as(y)
        (y * weights).sum().backward()
    torch.testing.assert_close(x.grad, expected[1], rtol=1e-4, atol=1e-4)


def test_memory_efficient_layers_keep_their_input_alone():
    def kept(layer) -> int:
        sizes = []
        x = torch.randn(1, 3, 5, 16, device=DEVICE, requires_grad=True)
        with (
            use_kernels("triton"),
            torch.autograd.graph.saved_tensors_hooks(
                lambda t: sizes.append(t.numel()) or t, lambda t: t
            ),
        ):
            layer.to(DEVICE)(x)
        return sum(sizes) - sum(p.numel() for p in layer.parameters())

    assert kept(CSA(16, 1, memory_efficient=True)) <= 15 * 16 < kept(CSA(16, 1))
    assert kept(MLP(16, 2, True, memory_efficient=True)) <= 15 * 16 < kept(MLP(16, 2, True))


@pytest.mark.parametrize(
    ("layer", "warning"),
    [
        (CSA(32, 4), "CSA has heads of 8 channels; the Triton kernel takes (16, 32, 64)"),
        (CSA(136, 1), "CSA has heads of 136 channels"),
        (CSA(192, 3), "CSA has 192 channels; the Triton kernel takes multiples of 16 up to 128"),
        (MLP(24, 2, False), "MLP has 24 channels; the Triton kernel takes multiples of 16 up to"),
        (MLP(12, 2, True), "MLP has 24 channels; the Triton kernel takes multiples of 16"),
        (AtrousQuery(8), "AtrousQuery has 8 channels"),
        (AtrousQuery(16).double(), "the input is torch.float64; Triton kernels take float32"),
    ],
    ids=str,
)
def test_eager_code_computes_what_no_kernel_can(layer, warning, caplog):
    parameter = next(layer.parameters())
    dim = layer.fc1.weight.shape[1] if isinstance(layer, MLP) else parameter.shape[-1]
    dim = len(parameter) if isinstance(layer, AtrousQuery) else dim
    x = torch.randn(1, 2, 3, dim, dtype=parameter.dtype, device=DEVICE)
    layer = layer.to(DEVICE)
    choice._warn_once.cache_clear()
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        with use_kernels("triton"):
            found = [layer(x) for _ in range(2)][0]
        torch.testing.assert_close(found, layer.reference(x), rtol=1e-4, atol=1e-5)
    assert [warning in r.getMessage() for r in caplog.records] == [True]


@pytest.mark.parametrize("name", SMALL)
def test_empty_batches_and_wrong_dtypes(name):
    layer, x = made(SMALL[name])
    for found in results(layer, x[:0], "triton"):
        assert not found.any()
    with use_kernels("triton"), pytest.raises(RuntimeError, match="dtype|type"):
        layer(x.bfloat16())


@on_gpu
@pytest.mark.parametrize("size", [(64, 64), (97, 65), (224, 224), (256, 320), (800, 1333)], ids=str)
def test_whole_network_on_a_gpu(size):
    torch.manual_seed(0)
    net = LVT().cuda()
    x = torch.randn(1, 3, *size, device="cuda")
    collected = []
    for kind in ("reference", "triton"):
        net.zero_grad()
        with use_kernels(kind):
            outputs = net(x)
        sum(f.square().mean() for f in outputs.values()).backward()
        collected.append((outputs, [p.grad.clone() for p in net.parameters()]))
    (outputs, gradients), (found, found_gradients) = collected
    for name, e in outputs.items():
        assert (found[name] - e).abs().max() <= 2e-5 * e.abs().max().clamp(min=1), name
    for e, f in zip(gradients, found_gradients, strict=True):
        assert (f - e).norm() <= 1e-4 * e.norm() + 1e-9


@on_gpu
def test_new_sizes_compile_nothing():
    pytest.importorskip("triton", minversion="3.3")  # where the compiled kernels are kept
    from triton.runtime import JITFunction

    kernels = [
        kernel
        for module in (triton_csa, triton_mlp, triton_query)
        for kernel in vars(module).values()
        if isinstance(kernel, JITFunction)
    ]

    def compiled() -> int:
        return sum(len(cache[0]) for kernel in kernels for cache in kernel.device_caches.values())

    net = LVT().cuda()
    with use_kernels("triton"):
        for index, size in enumerate([(64, 64), (97, 65), (160, 224), (33, 48)]):
            sum(f.sum() for f in net(torch.randn(2, 3, *size, device="cuda")).values()).backward()
            if index == 0:
                before = compiled()
    assert compiled() == before
