"""Semantic segmentation: the model, and the head of Panoptic FPN."""

import math

import torch
from fvcore.nn.weight_init import c2_msra_fill
from torch import nn

from detectron2.layers import Conv2d, ShapeSpec, get_norm, interpolate

from .._options import Registry, configurable, options
from ..postprocessing import sem_seg_postprocess
from .build import META_ARCH_REGISTRY
from .image_model import ImageModel, output_size

# Callables of (cfg, input_shape: dict[str, ShapeSpec]) that return a module which maps features to
# logits, and to losses in training.
SEM_SEG_HEADS_REGISTRY = Registry("SEM_SEG_HEADS")


@META_ARCH_REGISTRY.register()
class SemanticSegmentor(ImageModel):
    """A backbone and a semantic head.

    Args:
        backbone: makes feature maps.
        sem_seg_head: makes logits (B, classes, H, W) of them; has ``ignore_value``.
        pixel_mean: of every channel, in the range of the images.
        pixel_std: likewise.
    """

    @configurable
    def __init__(self, *, backbone, sem_seg_head: nn.Module, pixel_mean, pixel_std):
        super().__init__(backbone, pixel_mean, pixel_std)
        self.sem_seg_head = sem_seg_head

    @classmethod
    def from_config(cls, cfg):
        ret = super().from_config(cfg)
        return ret | {"sem_seg_head": build_sem_seg_head(cfg, ret["backbone"].output_shape())}

    def forward(self, batched_inputs):
        """Train or predict.

        Args:
            batched_inputs: one dictionary for each image: ``image`` (C, H, W); ``sem_seg``
                (H, W), the labels, in training; ``height`` and ``width`` of the wanted output.

        Returns:
            in training the losses by name; else for each image ``{"sem_seg": logits}``,
            (classes, height, width).
        """
        images, features = self._extract(batched_inputs)
        targets = self._batch_sem_seg(batched_inputs)
        logits, losses = self.sem_seg_head(features, targets)
        if self.training:
            return losses
        return [
            {"sem_seg": sem_seg_postprocess(result, size, *output_size(inputs, size))}
            for result, inputs, size in zip(logits, batched_inputs, images.image_sizes, strict=True)
        ]


def build_sem_seg_head(cfg, input_shape):
    """Build the semantic head named ``cfg.MODEL.SEM_SEG_HEAD.NAME``."""
    return SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)(cfg, input_shape)


@SEM_SEG_HEADS_REGISTRY.register()
class SemSegFPNHead(nn.Module):
    """Semantic branch of Panoptic FPN (https://arxiv.org/abs/1901.02446, section 3.1).

    Every level is brought to a common stride by 3x3 convolutions, with an upsampling by 2 after
    each; the levels are summed, and a 1x1 convolution gives the logits.

    Args:
        input_shape: of the feature maps, by name.
        num_classes: number of classes.
        conv_dims: channels of the 3x3 convolutions.
        common_stride: stride at which the levels are summed, in pixels.
        loss_weight: factor of the loss.
        norm: normalisation of the convolutions (see `get_norm`).
        ignore_value: label of pixels that don't count.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        conv_dims: int,
        common_stride: int,
        loss_weight: float = 1.0,
        norm=None,
        ignore_value: int = -1,
    ):
        super().__init__()
        shapes = sorted(input_shape.items(), key=lambda item: item[1].stride)
        if not shapes:
            raise ValueError("SemSegFPNHead(input_shape=) cannot be empty!")
        self.in_features = [name for name, _ in shapes]
        self.ignore_value, self.loss_weight = ignore_value, loss_weight
        self.common_stride, self.scale_heads = common_stride, []
        for name, shape in shapes:
            layers, channels = [], shape.channels
            for _ in range(max(1, int(math.log2(shape.stride / common_stride)))):
                after = {"norm": get_norm(norm, conv_dims), "activation": nn.functional.relu}
                layers.append(Conv2d(channels, conv_dims, 3, padding=1, bias=not norm, **after))
                c2_msra_fill(layers[-1])
                channels = conv_dims
                if shape.stride != common_stride:
                    layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.scale_heads.append(nn.Sequential(*layers))
            self.add_module(name, self.scale_heads[-1])
        self.predictor = Conv2d(conv_dims, num_classes, kernel_size=1)
        c2_msra_fill(self.predictor)

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        node = cfg.MODEL.SEM_SEG_HEAD
        ret = options(node, "NUM_CLASSES COMMON_STRIDE LOSS_WEIGHT NORM IGNORE_VALUE")
        input_shape = {k: v for k, v in input_shape.items() if k in node.IN_FEATURES}
        return ret | {"input_shape": input_shape, "conv_dims": node.CONVS_DIM}

    def forward(self, features, targets=None):
        """Train or predict.

        Returns:
            in training ``(None, losses)``, else ``(logits, {})`` at the size of the input.
        """
        x = self.layers(features)
        return (None, self.losses(x, targets)) if self.training else (self._upsample(x), {})

    def layers(self, features):
        """Logits (B, classes, H, W) at the common stride."""
        heads = zip(self.in_features, self.scale_heads, strict=True)
        return self.predictor(sum(head(features[name]) for name, head in heads))

    def losses(self, predictions, targets):
        """Cross entropy at the size of the input, averaged over all pixels that count."""
        # The loss of half-precision logits would be inexact.
        predictions = self._upsample(predictions.float())
        loss = nn.functional.cross_entropy(predictions, targets, ignore_index=self.ignore_value)
        return {"loss_sem_seg": loss * self.loss_weight}

    def _upsample(self, x: torch.Tensor) -> torch.Tensor:
        return interpolate(x, scale_factor=self.common_stride, mode="bilinear", align_corners=False)
