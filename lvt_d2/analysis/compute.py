"""Parameters, multiply-adds and activations of every module of a model."""

import copy
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from detectron2.utils.analysis import FlopCountAnalysis
from fvcore.nn import ActivationCountAnalysis
from torch import nn

from lvt_d2.analysis.forward import LayerForward, layer_forward, padded_size
from lvt_d2.analysis.published_rule import count_layers, count_products
from lvt_d2.layers.kernels import use_kernels
from lvt_d2.modeling import LVT

RULES = {
    "parameters": "numbers that are trained or could be; buffers are none",
    "layers": (
        "published rule, at the padded size: convolutions and linear layers with their biases, "
        "norms (2 an element), ReLU and pooling (1 an element); functions, such as the atrous "
        "queries' shared kernel, count as nothing"
    ),
    "products": "published rule, at the size before padding: q k^T and A V of CSA and RASA",
    "published": "layers + products",
    "fvcore": (
        "of what this code runs, at the padded size: convolutions, linear layers and matrix "
        "products without biases, norms 5 an element, upsampling 4; attention, which fvcore passes "
        "over, is counted as its two products. SegFormerHead runs a fifth of what it defines"
    ),
    "activations": (
        "fvcore's rule, at the padded size: elements of the outputs of convolutions, linear layers "
        "and matrix products"
    ),
}
"""What each figure counts; multiply-adds count 1."""


@dataclass
class Counts:
    """Figures of one module with all that is inside.

    Those of fvcore are None where they were not asked for, the others inside of layers that are
    counted as a whole.
    """

    parameters: int = 0
    layers: int | None = 0
    products: int | None = 0
    fvcore: int | None = None
    activations: int | None = None

    @property
    def published(self) -> int | None:
        """Multiply-adds by the published rule."""
        return None if None in (self.layers, self.products) else self.layers + self.products

    def as_dict(self) -> dict[str, int | None]:
        """All figures by the names of `RULES`."""
        return {**asdict(self), "published": self.published}


@dataclass
class Analysis:
    """Figures of a model at one size.

    Attributes:
        size: (H, W) of the image in pixels.
        padded: (H, W) that the network sees.
        modules: by name in the order of the model; the name of the model itself is empty.
    """

    size: tuple[int, int]
    padded: tuple[int, int]
    modules: dict[str, Counts] = field(default_factory=dict)

    @property
    def total(self) -> Counts:
        """The whole model's figures."""
        return self.modules[""]


def analyze(model: nn.Module, size: Sequence[int] | None = None, fvcore: bool = True) -> Analysis:
    """Count what a model has and computes for one image, in evaluation mode.

    Detectors are counted with 1000 boxes and 100 masks. The published rule is counted without
    computing anything; fvcore's takes two forward passes on the model's device.

    Args:
        model: a detector, a semantic segmentor, or any module that takes images (B, 3, H, W).
        size: (H, W) of the image in pixels. None: that of the published figure of such a model.
        fvcore: count by fvcore's rules, too.

    Raises:
        ConfigError: a detector whose heads are not known.
        ValueError: the image is too small for the model.
    """
    forward = layer_forward(model)
    size = tuple(forward.published_size if size is None else size)
    result = Analysis(size, padded_size(model, size))
    layers, products = _published(forward, result)
    names = {name: module for name, module in model.named_modules()}
    result.modules = {
        name: Counts(
            sum(p.numel() for p in module.parameters()),
            _inside(layers, name),
            _inside(products, name),
        )
        for name, module in names.items()
    }
    if fvcore:
        _add_fvcore(forward, result)
    return result


def _published(forward: LayerForward, analysis: Analysis) -> tuple[dict[str, int], dict[str, int]]:
    """Layers and attention products by module name, on a copy that has shapes and no numbers."""
    hollow = copy.deepcopy(forward).to("meta").eval()
    with torch.no_grad(), use_kernels("reference"):  # fast code wants numbers
        with count_layers(hollow.model) as layers:
            hollow(*hollow.inputs(analysis.padded, "meta"))
        with count_products(hollow.model) as products:
            for module in hollow.modules():
                if isinstance(module, LVT):
                    module(torch.zeros(1, 3, *analysis.size, device="meta"))
    return layers, products


def _inside(counts: dict[str, int | None], name: str) -> int | None:
    """Sum over a module and those inside."""
    if counts.get(name, 0) is None:
        return None
    prefix = f"{name}." if name else ""
    return sum(n or 0 for inner, n in counts.items() if inner == name or inner.startswith(prefix))


def _add_fvcore(forward: LayerForward, analysis: Analysis) -> None:
    was_training = forward.training
    forward.eval()
    device = next((p.device for p in forward.parameters()), "cpu")
    inputs = forward.inputs(analysis.padded, device)
    try:
        flops = _quiet(FlopCountAnalysis(forward, inputs)).set_op_handle(**_HANDLES)
        outputs = _quiet(ActivationCountAnalysis(forward, inputs))
        for counts, prefix, key in (
            (flops.by_module(), "model.model", "fvcore"),  # Detectron2 wraps the model once more
            (outputs.by_module(), "model", "activations"),
        ):
            for name, found in analysis.modules.items():
                inner = f"{prefix}.{name}" if name else prefix
                setattr(found, key, int(counts.get(inner, 0)))
    finally:
        forward.train(was_training)


def _quiet(analysis):
    """Without warnings of layers that are not called and operators that cost little."""
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return analysis.tracer_warnings("none")


def _attention(inputs: list, outputs: list) -> Counter:
    """Fused attention of (..., N, d) queries with (..., M, d) keys and values."""
    query, _, value = (_shape(v) for v in inputs[:3])
    keys, width = value[-2:]
    return Counter(attention=math.prod(query) * keys + math.prod(query[:-1]) * keys * width)


def _matmul(inputs: list, outputs: list) -> Counter:
    """Products of matrices and vectors; fvcore's own handle fails on vectors."""
    return Counter(matmul=math.prod(_shape(outputs[0])) * _shape(inputs[0])[-1])


def _shape(value) -> list[int]:
    return list(value.type().sizes())


_HANDLES = {"aten::scaled_dot_product_attention": _attention, "aten::matmul": _matmul}
