"""Counts of operations, activations and parameters of models that take lists of dicts.

fvcore counts by tracing, which takes and gives tensors only; an adapter translates.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import fvcore.nn
import torch
from fvcore.nn import activation_count, flop_count, parameter_count, parameter_count_table
from torch import nn

from detectron2.structures import BitMasks, Boxes, ImageList, Instances, ROIMasks

__all__ = ["activation_count_operators", "flop_count_operators", "parameter_count_table"]
__all__ += ["parameter_count", "FlopCountAnalysis"]

FLOPS_MODE = "flops"
ACTIVATIONS_MODE = "activations"
# Cheap beside convolutions and matrix products: counted as nothing.
_IGNORED_OPS = ["torchvision::nms"]
_IGNORED_OPS += [
    f"aten::{name}"
    for name in """add add_ argmax argsort batch_norm constant_pad_nd div div_ exp log2 max_pool2d
    meshgrid mul mul_ neg nonzero_numpy reciprocal repeat_interleave rsub sigmoid sigmoid_ softmax
    sort sqrt sub""".split()
]


def _tensors(obj: Any) -> list[torch.Tensor]:
    """All tensors inside `obj`, in a fixed order."""
    if isinstance(obj, torch.Tensor):
        return [obj]
    if isinstance(obj, Instances):
        obj = obj.get_fields()
    if isinstance(obj, (Boxes, BitMasks, ImageList, ROIMasks)):
        return [obj.tensor]
    if isinstance(obj, Mapping):
        obj = list(obj.values())
    return [t for x in obj for t in _tensors(x)] if isinstance(obj, (list, tuple)) else []


def _replace(obj: Any, tensors: list[torch.Tensor]) -> Any:
    """Copy of `obj` with its tensors taken from `tensors`, in the order of :func:`_tensors`."""
    if isinstance(obj, torch.Tensor):
        return tensors.pop(0)
    if isinstance(obj, Instances):
        return Instances(obj.image_size, **_replace(obj.get_fields(), tensors))
    if isinstance(obj, (Boxes, BitMasks, ROIMasks)):
        return type(obj)(tensors.pop(0))
    if isinstance(obj, ImageList):
        return ImageList(tensors.pop(0), obj.image_sizes)
    if isinstance(obj, Mapping):
        return {key: _replace(value, tensors) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return type(obj)([_replace(x, tensors) for x in obj])
    return obj


class _TensorModel(nn.Module):
    """`model` called with tensors: those of `inputs`, whose structure is kept."""

    def __init__(self, model: nn.Module, inputs: Any):
        super().__init__()
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        self.model = model
        self.inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        self.flattened_inputs = tuple(_tensors(self.inputs))

    def forward(self, *tensors):
        with torch.no_grad():
            return tuple(_tensors(self.model(*_replace(self.inputs, list(tensors)))))


class FlopCountAnalysis(fvcore.nn.FlopCountAnalysis):
    """fvcore's analysis (1 = one multiply-add), for models with Detectron2's inputs too.

    Names of submodules start with "model".

    Args:
        model: module in the mode, training or evaluation, that is to be counted.
        inputs: its argument, or a tuple of its arguments.
    """

    def __init__(self, model: nn.Module, inputs: Any):
        wrapper = _TensorModel(model, inputs)
        super().__init__(wrapper, wrapper.flattened_inputs)
        self.set_op_handle(**dict.fromkeys(_IGNORED_OPS))


def flop_count_operators(model: nn.Module, inputs: list) -> defaultdict[str, float]:
    """Operations of every kind of operator, in 10^9 multiply-adds, in evaluation mode.

    Args:
        model: a model with Detectron2's inputs.
        inputs: one image's dict, in a list; only its "image" is used.
    """
    return _count_operators(model, inputs, FLOPS_MODE)


def activation_count_operators(model: nn.Module, inputs: list, **kwargs) -> defaultdict[str, float]:
    """Elements of the outputs of every kind of operator, in 10^6, in evaluation mode.

    Args:
        model: a model with Detectron2's inputs.
        inputs: one image's dict, in a list; only its "image" is used.
        kwargs: arguments of fvcore's ``activation_count``.
    """
    return _count_operators(model, inputs, ACTIVATIONS_MODE, **kwargs)


def _count_operators(model: nn.Module, inputs: list, mode: str, **kwargs):
    assert len(inputs) == 1, "Please use batch size=1"
    nothing = dict.fromkeys(_IGNORED_OPS, lambda *args, **kwargs: {})
    kwargs["supported_ops"] = nothing | kwargs.pop("supported_ops", {})
    wrapper = _TensorModel(model, [{"image": inputs[0]["image"]}])
    was_training = model.training
    count = flop_count if mode == FLOPS_MODE else activation_count
    try:
        counts, _ = count(wrapper.eval(), wrapper.flattened_inputs, **kwargs)
    finally:
        model.train(was_training)
    return counts


def find_unused_parameters(model: nn.Module, inputs: Any) -> list[str]:
    """Names of parameters that get no gradient from the losses of one forward pass.

    Args:
        model: model in training mode that returns a loss or a dict of losses.
        inputs: its argument, or a tuple of its arguments.
    """
    assert model.training
    model.zero_grad(set_to_none=True)
    losses = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    (sum(losses.values()) if isinstance(losses, dict) else losses).backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    model.zero_grad(set_to_none=True)
    return unused
