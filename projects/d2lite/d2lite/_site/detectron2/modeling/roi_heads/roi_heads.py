"""Heads on regions of interest: sampling, box branch and mask branch."""

import torch
from torch import nn

from detectron2.layers import ShapeSpec, nonzero_tuple
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage

from .._options import Registry, configurable, options, same_for_all_levels
from ..matcher import Matcher
from ..poolers import ROIPooler
from ..proposal_generator.proposal_utils import add_ground_truth_to_proposals
from ..sampling import subsample_labels
from .box_head import build_box_head
from .fast_rcnn import FastRCNNOutputLayers
from .mask_head import build_mask_head

# Callables of (cfg, input_shape: dict[str, ShapeSpec]) that return `ROIHeads`.
ROI_HEADS_REGISTRY = Registry("ROI_HEADS")


def build_roi_heads(cfg, input_shape):
    """Build the heads named ``cfg.MODEL.ROI_HEADS.NAME``."""
    return ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)(cfg, input_shape)


def select_foreground_proposals(proposals: list[Instances], bg_label: int):
    """Keep proposals whose ``gt_classes`` is neither -1 nor ``bg_label``.

    Returns:
        the foreground of every image, and the masks over the given proposals that chose it.
    """
    assert all(p.has("gt_classes") for p in proposals), "no gt_classes"
    masks = [(p.gt_classes != -1) & (p.gt_classes != bg_label) for p in proposals]
    foreground = [p[nonzero_tuple(m)[0]] for p, m in zip(proposals, masks, strict=True)]
    return foreground, masks


_NO_KEYPOINTS = "Keypoint heads are not part of d2lite; install detectron2, which has them"


class ROIHeads(nn.Module):
    """Base of heads that work on regions: matches and samples proposals for training.

    Args:
        num_classes: number of foreground classes.
        batch_size_per_image: proposals of each image in the losses.
        positive_fraction: largest part of foreground among them, 0..1.
        proposal_matcher: labels proposals 1 (foreground), 0 (background), -1 (ignored).
        proposal_append_gt: add the ground-truth boxes to the proposals in training.
    """

    @configurable
    def __init__(
        self,
        *,
        num_classes,
        batch_size_per_image,
        positive_fraction,
        proposal_matcher,
        proposal_append_gt=True,
    ):
        super().__init__()
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction
        self.num_classes, self.proposal_matcher = num_classes, proposal_matcher
        self.proposal_append_gt = proposal_append_gt

    @classmethod
    def from_config(cls, cfg):
        node = cfg.MODEL.ROI_HEADS
        ret = options(node, "NUM_CLASSES BATCH_SIZE_PER_IMAGE POSITIVE_FRACTION PROPOSAL_APPEND_GT")
        return ret | {"proposal_matcher": Matcher(node.IOU_THRESHOLDS, node.IOU_LABELS)}

    def _sample_proposals(self, matched_idxs, matched_labels, gt_classes: torch.Tensor):
        """Draw proposals of one image, foreground first.

        Args:
            matched_idxs: (n,), index of each proposal's ground truth.
            matched_labels: (n,), the matcher's labels.
            gt_classes: (m,), of the ground truth.

        Returns:
            indices of the drawn proposals, and their classes: ``num_classes`` is background,
            -1 ignored (never drawn).
        """
        classes = torch.full_like(matched_idxs, self.num_classes)
        if gt_classes.numel() > 0:
            classes = gt_classes[matched_idxs]
            classes[matched_labels == 0] = self.num_classes
            classes[matched_labels == -1] = -1
        size, fraction = self.batch_size_per_image, self.positive_fraction
        sampled = torch.cat(subsample_labels(classes, size, fraction, self.num_classes), dim=0)
        return sampled, classes[sampled]

    @torch.no_grad()
    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]):
        """Give proposals their ground truth, and draw those to train on.

        Args:
            proposals: of every image, with ``proposal_boxes``, ``objectness_logits``.
            targets: of every image, with ``gt_boxes``, ``gt_classes`` and maybe more ``gt_*``.

        Returns:
            drawn proposals of every image, with ``gt_classes`` and, where the image has ground
            truth, all its other ``gt_*`` fields; these mean nothing for background.
        """
        if self.proposal_append_gt:
            proposals = add_ground_truth_to_proposals(targets, proposals)
        samples, background = [], []
        for proposals_i, targets_i in zip(proposals, targets, strict=True):
            quality = pairwise_iou(targets_i.gt_boxes, proposals_i.proposal_boxes)
            matches = self.proposal_matcher(quality)
            sampled, gt_classes = self._sample_proposals(*matches, targets_i.gt_classes)
            sample = proposals_i[sampled]
            sample.gt_classes = gt_classes
            for name, value in targets_i.get_fields().items():
                if name.startswith("gt_") and not sample.has(name) and len(targets_i) > 0:
                    # Indexed after sampling: masks of all proposals would be too large.
                    sample.set(name, value[matches[0][sampled]])
            samples.append(sample)
            background.append(gt_classes == self.num_classes)
        for name, flags in (("fg", [~b for b in background]), ("bg", background)):
            mean = sum(flag.sum().item() for flag in flags) / max(len(samples), 1)
            get_event_storage().put_scalar(f"roi_head/num_{name}_samples", mean)
        return samples

    def forward(self, images: ImageList, features, proposals: list[Instances], targets=None):
        """Look at the proposals.

        Args:
            images: the network's input.
            features: feature maps by name.
            proposals: of every image, with ``proposal_boxes``.
            targets: ground truth of every image, in training.

        Returns:
            in training the drawn proposals and the losses, else the detections and ``{}``.
        """
        raise NotImplementedError


@ROI_HEADS_REGISTRY.register()
class StandardROIHeads(ROIHeads):
    """Box branch and, if wanted, mask branch, each with pooling and a head of its own.

    Args:
        box_in_features: names of the feature maps of the box branch.
        box_pooler: see `ROIPooler`.
        box_head: makes features of the predictor.
        box_predictor: module like `FastRCNNOutputLayers`.
        mask_in_features: like ``box_in_features``; None for no masks.
        mask_pooler: None hands the feature maps themselves to the mask head.
        mask_head: module like `BaseMaskRCNNHead`.
        keypoint_in_features: must be None, as the two that follow; Detectron2 has keypoints.
        keypoint_pooler: see there.
        keypoint_head: see there.
        train_on_pred_boxes: train the mask branch on the boxes that the box branch predicts,
            not on the proposals.
        kwargs: arguments of `ROIHeads`.
    """

    @configurable
    def __init__(
        self,
        *,
        box_in_features: list[str],
        box_pooler: ROIPooler,
        box_head: nn.Module,
        box_predictor: nn.Module,
        mask_in_features: list[str] | None = None,
        mask_pooler: ROIPooler | None = None,
        mask_head: nn.Module | None = None,
        keypoint_in_features: list[str] | None = None,
        keypoint_pooler: ROIPooler | None = None,
        keypoint_head: nn.Module | None = None,
        train_on_pred_boxes: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if (keypoint_in_features, keypoint_pooler, keypoint_head) != (None, None, None):
            raise NotImplementedError(_NO_KEYPOINTS)
        self.in_features = self.box_in_features = box_in_features
        self.box_pooler, self.box_head, self.box_predictor = box_pooler, box_head, box_predictor
        self.mask_on = mask_in_features is not None
        if self.mask_on:
            self.mask_in_features = mask_in_features
            self.mask_pooler, self.mask_head = mask_pooler, mask_head
        self.keypoint_on, self.train_on_pred_boxes = False, train_on_pred_boxes

    @classmethod
    def from_config(cls, cfg, input_shape):
        ret = super().from_config(cfg) | options(cfg.MODEL.ROI_BOX_HEAD, "TRAIN_ON_PRED_BOXES")
        if cfg.MODEL.KEYPOINT_ON:
            raise NotImplementedError(_NO_KEYPOINTS)
        boxes, masks = cls._init_box_head(cfg, input_shape), cls._init_mask_head(cfg, input_shape)
        return ret | boxes | masks

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        in_features = cfg.MODEL.ROI_HEADS.IN_FEATURES
        pooler, shape = _build_pooler(cfg.MODEL.ROI_BOX_HEAD, in_features, input_shape)
        box_head = build_box_head(cfg, shape)
        ret = {"box_in_features": in_features, "box_pooler": pooler, "box_head": box_head}
        return ret | {"box_predictor": FastRCNNOutputLayers(cfg, box_head.output_shape)}

    @classmethod
    def _init_mask_head(cls, cfg, input_shape):
        if not cfg.MODEL.MASK_ON:
            return {}
        in_features = cfg.MODEL.ROI_HEADS.IN_FEATURES
        pooler, shape = None, {f: input_shape[f] for f in in_features}
        if cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE:
            pooler, shape = _build_pooler(cfg.MODEL.ROI_MASK_HEAD, in_features, input_shape)
        mask_head = build_mask_head(cfg, shape)
        return {"mask_in_features": in_features, "mask_pooler": pooler, "mask_head": mask_head}

    def forward(self, images: ImageList, features, proposals: list[Instances], targets=None):
        """See `ROIHeads.forward`."""
        if not self.training:
            instances = self._forward_box(features, proposals)
            return self.forward_with_given_boxes(features, instances), {}
        assert targets is not None, "'targets' argument is required during training"
        proposals = self.label_and_sample_proposals(proposals, targets)
        losses = self._forward_box(features, proposals)
        # With train_on_pred_boxes the proposals now hold the boxes that were predicted.
        losses.update(self._forward_mask(features, proposals))
        return proposals, losses

    def forward_with_given_boxes(self, features, instances: list[Instances]) -> list[Instances]:
        """Predict whatever else there is for given ``pred_boxes`` and ``pred_classes``."""
        assert not self.training, "forward_with_given_boxes is for inference"
        assert instances[0].has("pred_boxes") and instances[0].has("pred_classes")
        return self._forward_mask(features, instances)

    def _forward_box(self, features: dict[str, torch.Tensor], proposals: list[Instances]):
        """Losses of the box branch in training, else its detections."""
        maps = [features[f] for f in self.box_in_features]
        box_features = self.box_pooler(maps, [x.proposal_boxes for x in proposals])
        predictions = self.box_predictor(self.box_head(box_features))
        if not self.training:
            return self.box_predictor.inference(predictions, proposals)[0]
        losses = self.box_predictor.losses(predictions, proposals)
        if self.train_on_pred_boxes:
            with torch.no_grad():
                boxes = self.box_predictor.predict_boxes_for_gt_classes(predictions, proposals)
            for proposals_i, boxes_i in zip(proposals, boxes, strict=True):
                proposals_i.proposal_boxes = Boxes(boxes_i)
        return losses

    def _forward_mask(self, features: dict[str, torch.Tensor], instances: list[Instances]):
        """Losses of the mask branch in training, else instances with ``pred_masks``."""
        if not self.mask_on:
            return {} if self.training else instances
        if self.training:
            instances, _ = select_foreground_proposals(instances, self.num_classes)
        features = {f: features[f] for f in self.mask_in_features}
        if self.mask_pooler is not None:
            boxes = [x.proposal_boxes if self.training else x.pred_boxes for x in instances]
            features = self.mask_pooler(list(features.values()), boxes)
        return self.mask_head(features, instances)


def _build_pooler(node, in_features, input_shape):
    """Pooler of a head's config node, and the shape of what it gives."""
    channels = same_for_all_levels((input_shape[f].channels for f in in_features), "channel")
    side, scales = node.POOLER_RESOLUTION, [1.0 / input_shape[f].stride for f in in_features]
    pooler = ROIPooler(side, scales, node.POOLER_SAMPLING_RATIO, node.POOLER_TYPE)
    return pooler, ShapeSpec(channels=channels, height=side, width=side)
