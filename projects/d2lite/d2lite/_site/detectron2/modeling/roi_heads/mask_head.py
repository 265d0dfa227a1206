"""Mask head of Mask R-CNN (https://arxiv.org/abs/1703.06870)."""

import torch
from fvcore.nn.weight_init import c2_msra_fill
from torch import nn

from detectron2.layers import Conv2d, ConvTranspose2d, cat
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage

from .._options import Registry, configurable
from .box_head import add_convs

# Callables of (cfg, input_shape) that return a module of (features, instances), which gives losses
# in training and instances in inference.
ROI_MASK_HEAD_REGISTRY = Registry("ROI_MASK_HEAD")


def mask_rcnn_loss(pred_mask_logits: torch.Tensor, instances: list[Instances], vis_period: int = 0):
    """Binary cross entropy of the masks of the ground-truth classes, averaged over all pixels.

    Args:
        pred_mask_logits: (N, classes or 1, M, M), one per box of all images together.
        instances: of every image, with ``gt_classes``, ``gt_masks`` and ``proposal_boxes``.
        vis_period: iterations between pictures of predicted and true masks; 0 for none.

    Returns:
        a scalar, 0 where there is no box. Accuracies go to the event storage.
    """
    side = pred_mask_logits.size(2)
    assert side == pred_mask_logits.size(3), "Mask prediction must be square!"
    instances = [x for x in instances if len(x) > 0]
    if not instances:
        return pred_mask_logits.sum() * 0

    gt_masks = cat([x.gt_masks.crop_and_resize(x.proposal_boxes.tensor, side) for x in instances])
    gt_masks = gt_masks.to(pred_mask_logits.device, torch.float32)
    logits = _of_classes(pred_mask_logits, [x.gt_classes.to(torch.int64) for x in instances])
    # Masks with soft edges count as foreground from one half
    _log_mask_accuracy(logits, gt_masks > 0.5)
    storage = get_event_storage()
    if vis_period > 0 and storage.iter % vis_period == 0:
        for i, pair in enumerate(cat([logits.sigmoid(), gt_masks], dim=2)):
            title = f"Left: mask prediction;   Right: mask GT ({i})"
            storage.put_image(title, pair.expand(3, -1, -1))
    return nn.functional.binary_cross_entropy_with_logits(logits, gt_masks)


def _of_classes(logits, classes):
    """Logits (N, M, M) of the classes of every image; class-agnostic heads have but one."""
    classes = cat(classes) if logits.size(1) > 1 else 0
    return logits[torch.arange(logits.shape[0], device=logits.device), classes]


def _log_mask_accuracy(logits, is_mask):
    """Log the fraction of right pixels, and those of wrong ones outside and inside the masks."""
    wrong, storage = (logits > 0.0) != is_mask, get_event_storage()
    storage.put_scalar("mask_rcnn/accuracy", 1 - wrong.sum().item() / max(wrong.numel(), 1.0))
    for name, pixels in (("false_positive", ~is_mask), ("false_negative", is_mask)):
        fraction = (wrong & pixels).sum().item() / max(pixels.sum().item(), 1.0)
        storage.put_scalar(f"mask_rcnn/{name}", fraction)


def mask_rcnn_inference(pred_mask_logits: torch.Tensor, pred_instances: list[Instances]):
    """Give each instance the mask of its predicted class: ``pred_masks``, in place.

    Args:
        pred_mask_logits: (N, classes or 1, M, M), one per instance of all images together.
        pred_instances: of every image, with ``pred_classes``; they get ``pred_masks`` of
            probabilities, (n, 1, M, M).
    """
    masks = _of_classes(pred_mask_logits, [x.pred_classes for x in pred_instances])
    # `len` makes integers, which would be constants of a traced graph.
    masks = masks[:, None].sigmoid().split([x.__len__() for x in pred_instances])
    for instances, masks_i in zip(pred_instances, masks, strict=True):
        instances.pred_masks = masks_i


class BaseMaskRCNNHead(nn.Module):
    """Loss and inference of a mask head; subclasses give `layers`.

    Args:
        loss_weight: factor of the loss.
        vis_period: see `mask_rcnn_loss`.
    """

    @configurable
    def __init__(self, *, loss_weight: float = 1.0, vis_period: int = 0):
        super().__init__()
        self.vis_period, self.loss_weight = vis_period, loss_weight

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {"vis_period": cfg.VIS_PERIOD}

    def forward(self, x, instances: list[Instances]):
        """Predict the masks of all boxes.

        Args:
            x: features that `layers` takes.
            instances: in training proposals with their ground truth, in inference detections.

        Returns:
            in training ``{"loss_mask": loss}``, else the instances with ``pred_masks``.
        """
        x = self.layers(x)
        if self.training:
            return {"loss_mask": mask_rcnn_loss(x, instances, self.vis_period) * self.loss_weight}
        mask_rcnn_inference(x, instances)
        return instances

    def layers(self, x):
        """Mask logits (N, classes or 1, M, M) of features."""
        raise NotImplementedError


# The base comes first: `forward` must be its own, the modules those of Sequential.
@ROI_MASK_HEAD_REGISTRY.register()
class MaskRCNNConvUpsampleHead(BaseMaskRCNNHead, nn.Sequential):
    """Several 3x3 convolutions, a deconvolution to twice the size, and a 1x1 convolution.

    Args:
        input_shape: channels of the pooled features.
        num_classes: number of foreground classes, or 1 for class-agnostic masks.
        conv_dims: channels of the convolutions; the last one is that of the deconvolution.
        conv_norm: normalisation of the convolutions (see `get_norm`).
        loss_weight: factor of the loss.
        vis_period: see `mask_rcnn_loss`.
    """

    @configurable
    def __init__(
        self, input_shape, *, num_classes, conv_dims, conv_norm="", loss_weight=1.0, vis_period=0
    ):
        super().__init__(loss_weight=loss_weight, vis_period=vis_period)
        assert len(conv_dims) >= 1, "conv_dims have to be non-empty!"
        self.conv_norm_relus = []
        channels = add_convs(self, "mask_fcn", input_shape.channels, conv_dims[:-1], conv_norm)
        self.deconv = ConvTranspose2d(channels, conv_dims[-1], kernel_size=2, stride=2)
        self.add_module("deconv_relu", nn.ReLU())
        self.predictor = Conv2d(conv_dims[-1], num_classes, kernel_size=1)
        for layer in [*self.conv_norm_relus, self.deconv]:
            c2_msra_fill(layer)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.constant_(self.predictor.bias, 0)

    @classmethod
    def from_config(cls, cfg, input_shape):
        node = cfg.MODEL.ROI_MASK_HEAD
        classes = 1 if node.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES
        ret = {"input_shape": input_shape, "num_classes": classes, "conv_norm": node.NORM}
        ret |= super().from_config(cfg, input_shape)
        # one more for the deconvolution
        return ret | {"conv_dims": [node.CONV_DIM] * (node.NUM_CONV + 1)}

    layers = nn.Sequential.forward


def build_mask_head(cfg, input_shape):
    """Build the mask head named ``cfg.MODEL.ROI_MASK_HEAD.NAME``."""
    return ROI_MASK_HEAD_REGISTRY.get(cfg.MODEL.ROI_MASK_HEAD.NAME)(cfg, input_shape)
