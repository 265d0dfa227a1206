"""Backbones to time: the textbook's LVT, ours on every path, and timm's networks of that size."""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import timm
import torch
from torch import Tensor, nn

from benchmarks.measure import Contender
from benchmarks.textbook_lvt import TextbookLVT
from lvt_d2.layers.kernels import use_kernels
from lvt_d2.layers.kernels.choice import KINDS
from lvt_d2.modeling import LVT

PEERS = ("pvt_v2_b0", "mobilevit_xs", "efficientformerv2_s0", "fastvit_t8", "resnet18")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
EXACTNESS_SIZES = ((2, 64, 96), (1, 97, 65), (1, 224, 160))  # batch, height, width


def paths(device: torch.device) -> list[str]:
    """The paths of `lvt_d2.layers.kernels` that can run on a device, the readable one first."""
    only_there = {"triton": "cuda"}
    return [k for k in KINDS if k != "auto" and only_there.get(k, device.type) == device.type]


def pair(device: torch.device, memory_efficient: bool = False) -> tuple[TextbookLVT, LVT]:
    """The textbook's backbone and ours, of equal weights; attention is not nearly uniform."""
    torch.manual_seed(0)
    lvt = LVT(memory_efficient=memory_efficient)
    with torch.no_grad():
        for name, parameter in lvt.named_parameters():
            if name.endswith(("attention.weight", "q.weight", "kv.weight")):
                parameter *= 5
    return TextbookLVT().load(lvt).to(device), lvt.to(device)


class Peer(nn.Module):
    """A network of timm without its classifier: the maps of all its stages.

    Args:
        name: one that timm knows.
        size: height and width of its images; some networks are made for one size.
    """

    def __init__(self, name: str, size: tuple[int, int]):
        super().__init__()
        options = {"img_size": size} if name.startswith("efficientformer") else {}
        self.net = timm.create_model(name, features_only=True, pretrained=False, **options)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps by their place."""
        return {str(i): y for i, y in enumerate(self.net(x))}


def inference(
    net: nn.Module, x: Tensor, path: str = "auto", dtype: torch.dtype = torch.float32
) -> Contender:
    """A forward pass of a network whose weights and input have that type."""
    net = copy.deepcopy(net).eval().to(dtype)
    x = x.to(dtype)

    def run() -> None:
        with torch.inference_mode(), use_kernels(path):
            net(x)

    return Contender(run)


def compiled(
    net: nn.Module, x: Tensor, dtype: torch.dtype = torch.float32, **options: object
) -> Contender:
    """As `inference`, compiled for this size; ``options`` are Inductor's."""
    net = copy.deepcopy(net).eval().to(dtype)
    x = x.to(dtype)
    fast = torch.compile(net, options=options or None, dynamic=False)

    def run() -> None:
        with torch.no_grad():
            fast(x)

    return Contender(run)


def cuda_graph(
    net: nn.Module, x: Tensor, path: str = "auto", dtype: torch.dtype = torch.float32
) -> Contender:
    """As `inference`, recorded once and replayed."""
    net = copy.deepcopy(net).eval().to(dtype)
    x = x.to(dtype)
    side = torch.cuda.Stream(x.device)
    with torch.no_grad(), use_kernels(path):
        with torch.cuda.stream(side):
            for _ in range(3):
                net(x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            net(x)
    return Contender(graph.replay)


def training(
    net: nn.Module, x: Tensor, path: str = "auto", dtype: torch.dtype = torch.float32
) -> Contender:
    """A forward and a backward pass with fixed gradients of the outputs, without an optimizer.

    In half precision the weights stay in float32, under autocast.
    """
    net = copy.deepcopy(net).train()

    def context() -> AbstractContextManager:
        return torch.autocast(x.device.type, dtype) if dtype != torch.float32 else nullcontext()

    above = []  # gradients of the outputs, made once

    def run() -> None:
        with use_kernels(path):
            with context():
                outputs = list(net(x).values())
            if not above:
                above.extend(torch.full_like(y, 1e-3) for y in outputs)
            torch.autograd.backward(outputs, above)

    return Contender(run, prepare=lambda: net.zero_grad(set_to_none=True))


def exactness(
    device: torch.device, sizes: Sequence[tuple[int, int, int]] = EXACTNESS_SIZES
) -> dict[str, float]:
    """Largest difference of every path to the textbook: outputs (float32, float64), gradients.

    Outputs are compared as they are, a parameter's gradient relative to its norm. "Rounding" is the
    distance of a formulation in float32, the textbook too, to the textbook in float64.

    Args:
        device: where.
        sizes: batch, height and width of the inputs.
    """
    found: dict[str, float] = {}

    def note(name: str, value: float) -> None:
        found[name] = max(value, found.get(name, 0.0))

    for size in sizes:
        truth, _ = _textbook(device, torch.float64, size)
        for dtype_name, dtype in (("fp32", torch.float32), ("fp64", torch.float64)):
            expected, slopes = _textbook(device, dtype, size)
            if dtype == torch.float32:
                note("textbook, rounding, fp32", _gap(expected, truth))
            for path in paths(device):
                outputs, gradients = _ours(device, path, dtype, size)
                note(f"{path}, outputs, {dtype_name}", _gap(outputs, expected))
                note(f"{path}, gradients, {dtype_name}", _gradient_gap(gradients, slopes))
                if dtype == torch.float32:
                    note(f"{path}, rounding, fp32", _gap(outputs, truth))
    return found


def _textbook(device: torch.device, dtype: torch.dtype, size: tuple[int, int, int]):
    textbook = pair(device)[0].to(dtype)
    return _features(textbook, dtype, size), [p.grad for p in textbook.parameters()]


def _ours(device: torch.device, path: str, dtype: torch.dtype, size: tuple[int, int, int]):
    """Features, and gradients in the textbook's shapes."""
    lvt = pair(device)[1].to(dtype)
    with use_kernels(path):
        features = _features(lvt, dtype, size)
    with torch.no_grad():
        for parameter in lvt.parameters():
            parameter.copy_(parameter.grad)
    return features, list(TextbookLVT().to(device, dtype).load(lvt).parameters())


@torch.backends.cudnn.flags(enabled=True, allow_tf32=False)  # 10 bits would hide everything
def _features(net: nn.Module, dtype: torch.dtype, size: tuple[int, int, int]) -> dict[str, Tensor]:
    """Of a random image that depends on the size alone; parameters get their gradients."""
    B, H, W = size
    x = torch.randn(B, 3, H, W, generator=torch.Generator().manual_seed(H * W))
    features = net(x.to(next(net.parameters()).device, dtype))
    sum((y * y).mean() for y in features.values()).backward()
    return {name: y.detach() for name, y in features.items()}


def _gap(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    return max((found[name].double() - y).abs().max().item() for name, y in expected.items())


def _gradient_gap(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    return max(((g - e).norm() / e.norm()).item() for g, e in zip(found, expected, strict=True))
