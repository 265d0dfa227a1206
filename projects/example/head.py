"""A head of one's own: classes from a single level of the backbone."""

from collections.abc import Mapping

import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn


@SEM_SEG_HEADS_REGISTRY.register()
class OneLevelHead(nn.Module):
    """Two convolutions on one feature map; the contract is that of Detectron2's SemSegFPNHead.

    Args:
        input_shape: channels and stride of that one feature, by its name.
        num_classes: classes K.
        conv_dims: channels between the two.
        norm: of the first one, as for Detectron2's ``get_norm``.
        ignore_value: label of pixels that don't count.
    """

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        num_classes: int,
        conv_dims: int = 64,
        norm: str = "GN",
        ignore_value: int = 255,
    ):
        super().__init__()
        if len(input_shape) != 1:
            raise ValueError(f"input_shape has {sorted(input_shape)}; expected one feature")
        ((self.in_feature, shape),) = input_shape.items()
        self.stride = shape.stride
        self.ignore_value = ignore_value
        self.conv = Conv2d(
            shape.channels,
            conv_dims,
            kernel_size=3,
            padding=1,
            bias=not norm,
            norm=get_norm(norm, conv_dims),
            activation=F.relu,
        )
        self.predictor = Conv2d(conv_dims, num_classes, kernel_size=1)

    @classmethod
    def from_config(cls, cfg, input_shape: Mapping[str, ShapeSpec]) -> dict:
        """Arguments for those who build the head from a YAML."""
        node = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": {k: v for k, v in input_shape.items() if k in node.IN_FEATURES},
            "num_classes": node.NUM_CLASSES,
            "conv_dims": node.CONVS_DIM,
            "norm": node.NORM,
            "ignore_value": node.IGNORE_VALUE,
        }

    def forward(self, features: Mapping[str, Tensor], targets: Tensor | None = None):
        """Logits (B, K, H, W) and no losses; in training None and the losses."""
        logits = F.interpolate(
            self.layers(features).float(),
            scale_factor=self.stride,
            mode="bilinear",
            align_corners=False,
        )
        if not self.training:
            return logits, {}
        loss = F.cross_entropy(logits, targets, ignore_index=self.ignore_value)
        return None, {"loss_sem_seg": loss}

    def layers(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits at the feature's own stride; the config's model asks for them in evaluation."""
        return self.predictor(self.conv(features[self.in_feature]))
