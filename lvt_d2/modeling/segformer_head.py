"""SegFormer's head: every level through a linear layer, one fusion at the finest of them."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling.meta_arch.semantic_seg import SEM_SEG_HEADS_REGISTRY
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn

from lvt_d2.modeling.sem_seg_head import mean_cross_entropy


@SEM_SEG_HEADS_REGISTRY.register()
class SegFormerHead(nn.Module):
    """The all-MLP decoder of SegFormer (arXiv 2105.15203, section 3.2).

    Each level passes a linear layer and is resized to the finest one (bilinear); then they are
    concatenated, coarsest first, fused by a 1x1 convolution with norm and ReLU, and classified by
    another. The contract is that of Detectron2's ``SemSegFPNHead``.

    A 1x1 convolution commutes with the resizing. So each level's slice of the fuse convolution is
    multiplied into the level's linear layer, and applied before the resizing: the same numbers for
    a fifth of the multiply-adds, and nothing is concatenated.

    Args:
        input_shape: channels and stride of the features, by name.
        num_classes: classes K.
        conv_dims: channels of every level and of the fused map.
        dropout: fraction of the fused map's channels that training drops, 0..1.
        norm: of the fuse convolution, as for Detectron2's ``get_norm``; None or "" for none.
            `lvt_d2.layers.sync_batch_norm` chooses by the number of GPUs.
        loss_weight: factor of the loss.
        ignore_value: label of pixels that don't count.
        mean_over_ignored: divide the summed loss by the number of all pixels (published); else
            by that of the labelled ones (Detectron2's heads).
    """

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        num_classes: int,
        conv_dims: int = 256,
        dropout: float = 0.1,
        norm: str | Callable[[int], nn.Module] | None = "BN",
        loss_weight: float = 1.0,
        ignore_value: int = 255,
        mean_over_ignored: bool = True,
    ):
        super().__init__()
        shapes = sorted(input_shape.items(), key=lambda item: item[1].stride)
        if not shapes:
            raise ValueError("input_shape is empty; expected the features to use, by name")
        self.in_features = [name for name, _ in shapes]
        self.common_stride = shapes[0][1].stride
        self.loss_weight = loss_weight
        self.ignore_value = ignore_value
        self.mean_over_ignored = mean_over_ignored
        for level, (_, shape) in enumerate(shapes, start=1):
            linear = nn.Linear(shape.channels, conv_dims)
            self.add_module(f"linear_c{level}", nn.ModuleDict({"proj": linear}))
        self.linear_fuse = Conv2d(
            conv_dims * len(shapes),
            conv_dims,
            kernel_size=1,
            bias=not norm,
            norm=get_norm(norm, conv_dims),
            activation=F.relu,
        )
        c2_msra_fill(self.linear_fuse)
        self.dropout = nn.Dropout2d(dropout)
        self.linear_pred = Conv2d(conv_dims, num_classes, kernel_size=1)

    @classmethod
    def from_config(cls, cfg, input_shape: Mapping[str, ShapeSpec]) -> dict:
        """Arguments from ``cfg.MODEL.SEM_SEG_HEAD``; the common stride is the finest feature's."""
        node = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": {k: v for k, v in input_shape.items() if k in node.IN_FEATURES},
            "num_classes": node.NUM_CLASSES,
            "conv_dims": node.CONVS_DIM,
            "norm": node.NORM,
            "loss_weight": node.LOSS_WEIGHT,
            "ignore_value": node.IGNORE_VALUE,
        }

    def forward(
        self, features: Mapping[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Train or predict.

        Returns:
            In training None and the losses for (B, H, W) targets; else (B, K, H, W) logits at the
            size of the network's input, and no losses.
        """
        logits = self.layers(features)
        if self.training:
            return None, self.losses(logits, targets)
        return _resize(logits, [side * self.common_stride for side in logits.shape[-2:]]), {}

    def layers(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, K, H/4, W/4), at the stride of the finest feature."""
        size = features[self.in_features[0]].shape[-2:]
        fuse = self.linear_fuse
        linears = [getattr(self, f"linear_c{i + 1}").proj for i in range(len(self.in_features))]
        kernel = fuse.weight.flatten(1)
        # Biases are the same everywhere, whatever the resizing: the finest level adds all of them.
        bias = kernel @ torch.cat([linear.bias for linear in reversed(linears)])
        if fuse.bias is not None:
            bias = bias + fuse.bias
        slices = reversed(kernel.chunk(len(linears), dim=1))
        fused = None
        for name, linear, part in zip(self.in_features, linears, slices, strict=True):
            x = features[name].permute(0, 2, 3, 1)
            x = F.linear(x, part @ linear.weight, bias if fused is None else None)
            x = x.permute(0, 3, 1, 2)
            fused = x if fused is None else fused + _resize(x, size)
        if fuse.norm is not None:
            fused = fuse.norm(fused)
        return self.linear_pred(self.dropout(fuse.activation(fused)))

    def losses(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Weighted cross entropy of (B, K, h, w) logits, resized to (B, H, W) labels."""
        predictions = _resize(predictions.float(), targets.shape[-2:])  # half under autocast
        loss = mean_cross_entropy(predictions, targets, self.ignore_value, self.mean_over_ignored)
        return {"loss_sem_seg": loss * self.loss_weight}


def _resize(x: Tensor, size) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
