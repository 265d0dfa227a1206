"""One pass through all layers of a model, with a fixed number of boxes and masks.

What a detector computes depends on how many boxes it finds, so its compute is stated for a fixed
number. Only tensors go in and out, as counters that trace want it; what lies between the layers of
a detector (selection and pooling of boxes, pasting of masks), and what turns the network's output
into results at the image's own size, is left out.
"""

from collections.abc import Sequence

import torch
from detectron2.modeling import GeneralizedRCNN, SemanticSegmentor
from detectron2.modeling.roi_heads import StandardROIHeads
from torch import Tensor, nn

from lvt_d2.errors import ConfigError

BOXES = 1000  # proposals that reach the box head, as published
MASKS = 100  # detections that get a mask, as published


class LayerForward(nn.Module):
    """A model that takes an image and gives tensors, as it is; base of the other passes.

    Args:
        model: kept as the attribute ``model``.
    """

    published_size = (512, 512)
    """(H, W) in pixels for which the compute of such models is published."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def inputs(self, size: tuple[int, int], device: torch.device | str) -> tuple[Tensor, ...]:
        """Zeros: the arguments of the forward pass for an image of (H, W) pixels."""
        return (torch.zeros(1, 3, *size, device=device),)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return _tensors(self.model(image))


class _SemanticForward(LayerForward):
    """Backbone and semantic head, whose logits have the size of the network's input."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return _tensors(self.model.sem_seg_head(self.model.backbone(image)))


class _DetectorForward(LayerForward):
    """Backbone, proposal head on all levels, box and mask heads, and a semantic head if any."""

    published_size = (800, 1200)

    def __init__(self, model: nn.Module):
        super().__init__(model)
        if not isinstance(model.roi_heads, StandardROIHeads):
            raise ConfigError(
                f"the detector has roi_heads of the class {type(model.roi_heads).__name__}; the "
                "analysis knows StandardROIHeads. Analyze its parts one by one instead, such as "
                "--part model.backbone"
            )

    def inputs(self, size: tuple[int, int], device: torch.device | str) -> tuple[Tensor, ...]:
        heads, shapes = self.model.roi_heads, self.model.backbone.output_shape()
        pooled = [(BOXES, heads.box_in_features, heads.box_pooler)]
        if heads.mask_on:
            pooled.append((MASKS, heads.mask_in_features, heads.mask_pooler))
        regions = (
            torch.zeros(count, shapes[levels[0]].channels, *pooler.output_size, device=device)
            for count, levels, pooler in pooled
        )
        return (*super().inputs(size, device), *regions)

    def forward(self, image: Tensor, boxes: Tensor, masks: Tensor | None = None):
        heads, proposals = self.model.roi_heads, self.model.proposal_generator
        features = self.model.backbone(image)
        results = [
            proposals.rpn_head([features[name] for name in proposals.in_features]),
            heads.box_predictor(heads.box_head(boxes)),
        ]
        if masks is not None:
            results.append(heads.mask_head.layers(masks))
        if hasattr(self.model, "sem_seg_head"):
            results.append(self.model.sem_seg_head(features))
        return _tensors(results)


def layer_forward(model: nn.Module) -> LayerForward:
    """The pass that suits a model: detectors, semantic segmentors, or any module of an image.

    Raises:
        ConfigError: a detector whose heads are not known.
    """
    if isinstance(model, GeneralizedRCNN):
        return _DetectorForward(model)
    if isinstance(model, SemanticSegmentor):
        return _SemanticForward(model)
    return LayerForward(model)


def padded_size(model: nn.Module, size: Sequence[int]) -> tuple[int, int]:
    """(H, W) of an image after the padding that the model itself does."""
    backbone = getattr(model, "backbone", None)
    divisor = max(getattr(backbone, "size_divisibility", 0), 1)
    height, width = (-(-side // divisor) * divisor for side in size)
    return height, width


def _tensors(value) -> tuple[Tensor, ...]:
    """All tensors in nested results, in their order."""
    if isinstance(value, Tensor):
        return (value,)
    children = value.values() if isinstance(value, dict) else value
    return tuple(tensor for child in children for tensor in _tensors(child))
