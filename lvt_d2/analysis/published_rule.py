"""The rule behind the published multiply-adds of LVT: a counter of layers, and attention products.

1 = one multiply-add. The figures of the paper are the sum of two counts.

*Layers*, at the size of the network's input (after padding), by a counter that hooks modules:

- convolution: weights x positions, and 1 for the bias of every output element;
- linear layer: weights x rows, and the bias once;
- norm with weights: 2 for every element; ReLU: 1 for every element; pooling: 1 for every element
  of its input; upsampling layer: 1 for every element of its output;
- whatever is no module of these kinds counts as nothing: the shared depthwise kernel of
  `AtrousQuery` (called as a function), SiLU, GELU, softmax, sums, and resizing by a function.

LVT's layers and `SegFormerHead` are counted from their definition, whatever this code does to
compute less. The published network has convolutions of 1x1 where `MLP` with a depthwise convolution
has linear layers and where `CSA` has value matrices; they are counted as such. What RASA applies
recursively counts once for every application.

*Attention products*, at the image's own size (before padding): ``A V`` of CSA's windows, and
``q k^T`` and ``A V`` of RASA, for every block and every application.

Semantic segmentation with the SegFormer head at 512x512: 9.58 G + 1.05 G = 10.6 G. Panoptic FPN:
the paper says 1333x800, the count is of an image of 1200x800 (COCO's usual 3:2), padded to
1216x800, with 1000 boxes and 100 masks: 42.82 G + 13.55 G = 56.4 G.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AvgPoolNd, _MaxPoolNd

from lvt_d2.layers import CSA, MLP, RASA
from lvt_d2.layers.csa import K
from lvt_d2.modeling.segformer_head import SegFormerHead

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
_RELUS = (F.relu, F.relu_, torch.relu)


def _conv(module: nn.Module, x: Tensor, y: Tensor) -> int:
    by_input = isinstance(module, _TRANSPOSED)
    positions = (x.numel() // x.shape[1]) if by_input else (y.numel() // y.shape[1])
    count = positions * module.weight.numel()
    if module.bias is not None:
        count += y.numel()
    # Detectron2's convolutions may hold a function as their activation; modules are hooked.
    return count + y.numel() * (getattr(module, "activation", None) in _RELUS)


def _linear(module: nn.Linear, x: Tensor, y: Tensor) -> int:
    bias = 0 if module.bias is None else module.out_features
    return x.numel() * module.out_features + bias


def _norm(module: nn.Module, x: Tensor, y: Tensor) -> int:
    return x.numel() * (1 if module.weight is None else 2)


def _elements_in(module: nn.Module, x: Tensor, y: Tensor) -> int:
    return x.numel()


def _elements_out(module: nn.Module, x: Tensor, y: Tensor) -> int:
    return y.numel()


def _csa(module: CSA, x: Tensor, y: Tensor) -> int:
    B, H, W, C = x.shape
    windows, maps = _windows(x), module.num_heads * K**4
    pooling = x.numel()
    attention = windows * C * maps + maps
    values = windows * K * K * C * C
    projection = B * H * W * C * C + C
    return pooling + attention + values + projection


def _csa_products(module: CSA, x: Tensor) -> int:
    """Every window's A (heads, 9, 9) times V (heads, 9, d)."""
    return _windows(x) * K**4 * x.shape[-1]


def _windows(x: Tensor) -> int:
    B, H, W, _ = x.shape
    return B * ((H + 1) // 2) * ((W + 1) // 2)


def _rasa(module: RASA, x: Tensor, y: Tensor) -> int:
    C = x.shape[-1]
    tokens, reduced = _tokens(module, x)
    count = tokens * C * C + reduced * C * 2 * C  # queries, keys and values
    if module.sr_ratio > 1:
        convolution = reduced * C * (C * module.sr_ratio**2 + 1)
        count += convolution + 2 * reduced * C
    count += tokens * C * C + C  # projection
    return module.recursions * count


def _rasa_products(module: RASA, x: Tensor) -> int:
    """``q k^T`` and ``A V`` of every application."""
    tokens, reduced = _tokens(module, x)
    return module.recursions * 2 * tokens * (reduced // x.shape[0]) * x.shape[-1]


def _tokens(module: RASA, x: Tensor) -> tuple[int, int]:
    """Queries, and keys, of the whole batch."""
    B, H, W, _ = x.shape
    return B * H * W, B * (H // module.sr_ratio) * (W // module.sr_ratio)


def _mlp(module: MLP, x: Tensor, y: Tensor) -> int:
    C, hidden = module.fc1.in_features, module.fc1.out_features
    rows = x.numel() // C
    count = 2 * rows * C * hidden
    if module.dwconv is None:
        return count + hidden + C
    return count + rows * (hidden + C) + rows * hidden * (K * K + 1)


def _segformer(module: SegFormerHead, features: Mapping[str, Tensor], y: object) -> int:
    """A linear layer on every level, and at the finest one fusion, norm, ReLU and classifier."""
    fuse, classifier = module.linear_fuse, module.linear_pred
    levels = [features[name] for name in module.in_features]
    count = sum(x.numel() * fuse.out_channels + fuse.out_channels for x in levels)
    pixels = levels[0].numel() // levels[0].shape[1]
    has_bias = int(fuse.bias is not None)
    fused = fuse.in_channels + has_bias + (2 if fuse.norm is not None else 0) + 1
    classes = classifier.out_channels
    return count + pixels * (fuse.out_channels * (fused + classes) + classes)


_DEFINED = (CSA, RASA, MLP, SegFormerHead)
_LAYERS: tuple[tuple[type | tuple[type, ...], Callable[[nn.Module, Tensor, Tensor], int]], ...] = (
    (CSA, _csa),
    (RASA, _rasa),
    (MLP, _mlp),
    (SegFormerHead, _segformer),
    (_CONVOLUTIONS + _TRANSPOSED, _conv),
    (nn.Linear, _linear),
    (_NORMS, _norm),
    (nn.ReLU, _elements_out),
    (nn.Upsample, _elements_out),
    ((_MaxPoolNd, _AvgPoolNd, _AdaptiveAvgPoolNd), _elements_in),
)
_PRODUCTS: tuple[tuple[type, Callable[[nn.Module, Tensor], int]], ...] = (
    (CSA, _csa_products),
    (RASA, _rasa_products),
)


@contextmanager
def count_layers(model: nn.Module) -> Iterator[dict[str, int | None]]:
    """Count the layers of whatever passes run inside.

    Yields:
        Counts by module name, without those of inner modules; None for modules inside of one that
        is counted from its definition.
    """
    with _hooked(model, _LAYERS, lambda rule, module, x, y: rule(module, x, y)) as counts:
        yield counts


@contextmanager
def count_products(model: nn.Module) -> Iterator[dict[str, int | None]]:
    """Count the attention products of whatever passes run inside, as `count_layers` does."""
    with _hooked(model, _PRODUCTS, lambda rule, module, x, y: rule(module, x)) as counts:
        yield counts


@contextmanager
def _hooked(model: nn.Module, rules: tuple, apply: Callable) -> Iterator[dict[str, int | None]]:
    counts: dict[str, int | None] = {}
    handles, covered = [], set()
    for name, module in model.named_modules():
        rule = next((rule for kinds, rule in rules if isinstance(module, kinds)), None)
        if module in covered:
            counts[name] = None
        elif rule is not None:
            if isinstance(module, _DEFINED):
                covered.update(module.modules())
            counts[name] = 0

            def hook(module, inputs, output, name=name, rule=rule):
                counts[name] += apply(rule, module, inputs[0], output)

            handles.append(module.register_forward_hook(hook))
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()
