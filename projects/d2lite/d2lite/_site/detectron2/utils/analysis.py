"""Counts of operations, activations and parameters of models that take lists of dicts."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import fvcore.nn
import torch
from fvcore.nn import activation_count, flop_count, parameter_count, parameter_count_table
from torch import nn

__all__ = ["activation_count_operators", "flop_count_operators", "parameter_count_table"]
__all__ += ["parameter_count", "FlopCountAnalysis"]

# Cheap beside convolutions and matrix products: counted as nothing.
_IGNORED_OPS = ["torchvision::nms"]
_IGNORED_OPS += [
    f"aten::{name}"
    for name in """add add_ argmax argsort batch_norm constant_pad_nd div div_ exp log2 max_pool2d
    meshgrid mul mul_ neg nonzero_numpy reciprocal repeat_interleave rsub sigmoid sigmoid_ softmax
    sort sqrt sub""".split()
]


def _tensors(obj: Any) -> list[torch.Tensor]:
    """All tensors inside `obj`: containers, Instances, Boxes, masks."""
    if isinstance(obj, torch.Tensor):
        return [obj]
    obj = obj if isinstance(obj, (Mapping, list, tuple)) else getattr(obj, "__dict__", ())
    parts = obj.values() if isinstance(obj, Mapping) else obj
    return [tensor for part in parts for tensor in _tensors(part)]


class _TensorModel(nn.Module):
    """`model` on fixed `inputs`, with tensors only going in and out, as fvcore's tracing needs.

    What goes in is not used: operations on constants are traced just as well.
    """

    def __init__(self, model: nn.Module, inputs: Any):
        super().__init__()
        parallel = isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel))
        self.model = model.module if parallel else model
        self.inputs = inputs if isinstance(inputs, tuple) else (inputs,)

    def forward(self, unused):
        with torch.no_grad():
            return tuple(_tensors(self.model(*self.inputs)))


_UNUSED = (torch.zeros(()),)


class FlopCountAnalysis(fvcore.nn.FlopCountAnalysis):
    """fvcore's analysis (1 = one multiply-add), for models with Detectron2's inputs too.

    Names of submodules start with "model".

    Args:
        model: module in the mode, training or evaluation, that is to be counted.
        inputs: its argument, or a tuple of its arguments.
    """

    def __init__(self, model: nn.Module, inputs: Any):
        super().__init__(_TensorModel(model, inputs), _UNUSED)
        self.set_op_handle(**dict.fromkeys(_IGNORED_OPS))


def flop_count_operators(model: nn.Module, inputs: list) -> defaultdict[str, float]:
    """Operations of every kind of operator, in 10^9 multiply-adds, in evaluation mode.

    Args:
        model: a model with Detectron2's inputs.
        inputs: one image's dict, in a list; only its "image" is used.
    """
    return _count_operators(flop_count, model, inputs)


def activation_count_operators(model: nn.Module, inputs: list, **kwargs) -> defaultdict[str, float]:
    """Elements of the outputs of every kind of operator, in 10^6, in evaluation mode.

    Args:
        model: a model with Detectron2's inputs.
        inputs: one image's dict, in a list; only its "image" is used.
        kwargs: arguments of fvcore's ``activation_count``.
    """
    return _count_operators(activation_count, model, inputs, **kwargs)


def _count_operators(count, model: nn.Module, inputs: list, supported_ops=None, **kwargs):
    assert len(inputs) == 1, "Please use batch size=1"
    ignored = dict.fromkeys(_IGNORED_OPS, lambda *args, **kwargs: {})
    wrapper = _TensorModel(model, [{"image": inputs[0]["image"]}])
    was_training = model.training
    try:
        operators = ignored | (supported_ops or {})
        return count(wrapper.eval(), _UNUSED, supported_ops=operators, **kwargs)[0]
    finally:
        model.train(was_training)


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
