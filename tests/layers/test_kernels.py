"""The fast code behind the layers against the layers' own."""

import subprocess
import sys

import pytest
import torch

from lvt_d2.layers import CSA, MLP, AtrousQuery
from lvt_d2.layers.kernels import eager_csa, eager_mlp, fast_path, kernels_in_use, use_kernels
from lvt_d2.modeling import LVT

LAYERS = {
    "csa": lambda: CSA(16, 2),
    "csa, memory efficient": lambda: CSA(16, 2, memory_efficient=True),
    "depthwise mlp": lambda: MLP(16, 8, depthwise=True),
    "depthwise mlp, memory efficient": lambda: MLP(16, 8, depthwise=True, memory_efficient=True),
    "mlp": lambda: MLP(16, 4, depthwise=False),
    "mlp, memory efficient": lambda: MLP(16, 4, depthwise=False, memory_efficient=True),
    "atrous query": lambda: AtrousQuery(16),
    "atrous query of odd rates": lambda: AtrousQuery(16, (2, 4)),
}
SIZES = [(2, 7, 9), (3, 8, 6), (1, 13, 16), (2, 1, 1), (5, 3, 2), (0, 4, 4)]


@pytest.fixture
def small_chunks(monkeypatch):
    """Several chunks on maps of a few pixels."""
    monkeypatch.setattr(eager_csa, "CPU_WINDOWS", 20)
    monkeypatch.setattr(eager_mlp, "CPU_TOKENS", 16)
    monkeypatch.setattr(eager_mlp, "CPU_HIDDEN", 1000)


def results(layer, x, kind: str) -> list[torch.Tensor]:
    """Output with and without a graph, gradient of the input and of every parameter."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    with use_kernels(kind):
        y = layer(x)
        with torch.no_grad():
            detached = layer(x)
    weights = torch.linspace(-1, 1, max(y.numel(), 1), dtype=y.dtype)[: y.numel()].view_as(y)
    (y * weights).sum().backward()
    return [y.detach(), detached, x.grad, *(p.grad.clone() for p in layer.parameters())]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str
)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients_equal_the_reference(name, size, dtype, tolerance, small_chunks):
    torch.manual_seed(0)
    layer = LAYERS[name]().to(dtype)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(*size, 16, dtype=dtype)
    expected, found = (results(layer, x, kind) for kind in ("reference", "eager"))
    for e, f in zip(expected, found, strict=True):
        scale = 1 + (e.abs().max().item() if e.numel() else 0)
        torch.testing.assert_close(f / scale, e / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_a_frozen_layer_and_of_a_fixed_input(name):
    torch.manual_seed(0)
    layer = LAYERS[name]()
    x = torch.randn(1, 5, 6, 16)
    layer(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    layer.requires_grad_(False)
    x.requires_grad_()
    layer(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_memory_efficient_layers_keep_their_input_alone():
    def kept(layer) -> int:
        sizes = []
        x = torch.randn(1, 16, 16, 16, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.append(t.numel()) or t, lambda t: t
        ):
            layer(x)
        return sum(sizes) - sum(p.numel() for p in layer.parameters())

    for name in ("csa", "mlp", "depthwise mlp"):
        assert kept(LAYERS[f"{name}, memory efficient"]()) < 0.6 * kept(LAYERS[name]()), name


def test_prepared_weights_follow_the_parameters():
    layer = CSA(16, 2)
    x = torch.randn(1, 6, 6, 16)
    keys = set(layer.state_dict())
    with torch.no_grad():
        layer(x)
        layer.attention.weight.normal_()  # in place
        torch.testing.assert_close(layer(x), layer.reference(x))
        layer.load_state_dict(CSA(16, 2).state_dict())
        torch.testing.assert_close(layer(x), layer.reference(x))
        layer.attention.weight = torch.nn.Parameter(torch.randn(162, 16))
        torch.testing.assert_close(layer(x), layer.reference(x))
    assert set(layer.state_dict()) == keys


def test_whole_network_in_inference_mode_and_under_autocast():
    torch.manual_seed(0)
    net = LVT().eval()
    x = torch.randn(2, 3, 97, 65)
    for dtype, tolerance in ((None, 1e-5), (torch.bfloat16, 0.03)):
        outputs = []
        for kind in ("reference", "eager"):
            with (
                torch.inference_mode(),
                torch.autocast("cpu", dtype=dtype, enabled=dtype is not None),
                use_kernels(kind),
            ):
                outputs.append(net(x))
        for name, expected in outputs[0].items():
            assert outputs[1][name].dtype == expected.dtype
            error = (outputs[1][name].float() - expected.float()).norm() / expected.float().norm()
            assert error < tolerance, (dtype, name, error)


def test_training_under_autocast():
    torch.manual_seed(0)
    net = LVT(memory_efficient=True)
    gradients = []
    for kind in ("reference", "eager"):
        net.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16), use_kernels(kind):
            loss = sum(f.float().square().mean() for f in net(torch.ones(1, 3, 64, 64)).values())
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    similarity = torch.nn.functional.cosine_similarity(*gradients, dim=0)
    assert similarity > 0.99


def test_choice():
    x = torch.zeros(1, 4, 4, 16)
    assert kernels_in_use() == "auto"
    with use_kernels("reference"):
        assert kernels_in_use() == "reference"
        assert fast_path("csa", x) is None
        with use_kernels("eager"):
            assert fast_path("csa", x) is eager_csa.csa
        assert kernels_in_use() == "reference"
    assert kernels_in_use() == "auto"
    with pytest.raises(ValueError, match="kind is 'fast'; expected one of auto, reference, eager"):
        use_kernels("fast")
    assert kernels_in_use() == "auto"


def test_environment_variable():
    code = "from lvt_d2.layers.kernels import kernels_in_use as k; print(k())"
    found = subprocess.run(
        [sys.executable, "-c", f"import lvt_d2; {code}"],
        env={"LVT_D2_KERNELS": "reference", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "reference"


def test_compilers_see_the_reference():
    net = LVT(out_features=("res2",)).eval()
    x = torch.randn(1, 3, 40, 64)
    with torch.no_grad():
        expected = net(x)["res2"]
        exported = torch.export.export(net, (x,)).module()
        torch.testing.assert_close(exported(x)["res2"], expected, rtol=0, atol=2e-5)
        assert torch._dynamo.explain(net)(x).graph_break_count == 0
