"""Box heads: from pooled features to a vector for each box."""

import math

import torch
from fvcore.nn.weight_init import c2_msra_fill, c2_xavier_fill
from torch import nn

from detectron2.layers import Conv2d, ShapeSpec, get_norm

from .._options import Registry, configurable

# Callables of (cfg, input_shape: ShapeSpec) that return a module with an `output_shape`, which maps
# the pooled features of boxes to features for their predictions.
ROI_BOX_HEAD_REGISTRY = Registry("ROI_BOX_HEAD")


def add_convs(head: nn.Module, prefix: str, channels: int, conv_dims, conv_norm) -> int:
    """Add 3x3 convolutions with ReLU to a head and its ``conv_norm_relus``; returns channels."""
    for k, conv_dim in enumerate(conv_dims, start=1):
        after = {"norm": get_norm(conv_norm, conv_dim), "activation": nn.ReLU()}
        conv = Conv2d(channels, conv_dim, 3, padding=1, bias=not conv_norm, **after)
        head.add_module(f"{prefix}{k}", conv)
        head.conv_norm_relus.append(conv)
        channels = conv_dim
    return channels


@ROI_BOX_HEAD_REGISTRY.register()
class FastRCNNConvFCHead(nn.Sequential):
    """Several 3x3 convolutions, then several linear layers, each followed by a ReLU.

    Args:
        input_shape: channels, height and width of the pooled features.
        conv_dims: channels of the convolutions.
        fc_dims: widths of the linear layers.
        conv_norm: normalisation of the convolutions (see `get_norm`).
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, conv_dims, fc_dims, conv_norm=""):
        super().__init__()
        assert len(conv_dims) + len(fc_dims) > 0, "conv_dims and fc_dims are both empty"
        self.conv_norm_relus, self.fcs = [], []
        channels = add_convs(self, "conv", input_shape.channels, conv_dims, conv_norm)
        self._output_size = (channels, input_shape.height, input_shape.width)
        if fc_dims:
            self.add_module("flatten", nn.Flatten())
        for k, fc_dim in enumerate(fc_dims, start=1):
            self.fcs.append(nn.Linear(math.prod(self._output_size), fc_dim))
            self.add_module(f"fc{k}", self.fcs[-1])
            self.add_module(f"fc_relu{k}", nn.ReLU())
            self._output_size = (fc_dim,)
        for layer in self.conv_norm_relus:
            c2_msra_fill(layer)
        for layer in self.fcs:
            c2_xavier_fill(layer)

    @classmethod
    def from_config(cls, cfg, input_shape):
        node = cfg.MODEL.ROI_BOX_HEAD
        convs, linears = [node.CONV_DIM] * node.NUM_CONV, [node.FC_DIM] * node.NUM_FC
        ret = {"input_shape": input_shape, "conv_norm": node.NORM}
        return ret | {"conv_dims": convs, "fc_dims": linears}

    @property
    @torch.jit.unused
    def output_shape(self) -> ShapeSpec:
        """Shape of the features of one box; only channels where the head ends in linear layers."""
        return ShapeSpec(*self._output_size)


def build_box_head(cfg, input_shape):
    """Build the box head named ``cfg.MODEL.ROI_BOX_HEAD.NAME``."""
    return ROI_BOX_HEAD_REGISTRY.get(cfg.MODEL.ROI_BOX_HEAD.NAME)(cfg, input_shape)
