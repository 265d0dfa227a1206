"""Region proposal network (https://arxiv.org/abs/1506.01497)."""

import torch
from torch import nn

from detectron2.layers import Conv2d, ShapeSpec, cat
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from detectron2.utils.memory import retry_if_cuda_oom

from .._options import Registry, configurable, options, same_for_all_levels
from ..anchor_generator import build_anchor_generator
from ..box_regression import Box2BoxTransform, _dense_box_regression_loss
from ..matcher import Matcher
from ..sampling import subsample_labels
from .build import PROPOSAL_GENERATOR_REGISTRY
from .proposal_utils import find_top_rpn_proposals

# Callables of (cfg, input_shape: list[ShapeSpec]) that return a module which maps a list of feature
# maps to lists of objectness logits and anchor deltas.
RPN_HEAD_REGISTRY = Registry("RPN_HEAD")


def build_rpn_head(cfg, input_shape):
    """Build the RPN head named ``cfg.MODEL.RPN.HEAD_NAME``."""
    return RPN_HEAD_REGISTRY.get(cfg.MODEL.RPN.HEAD_NAME)(cfg, input_shape)


@RPN_HEAD_REGISTRY.register()
class StandardRPNHead(nn.Module):
    """3x3 convolutions, then one 1x1 for objectness and one for box deltas; shared by all levels.

    Args:
        in_channels: channels of the feature maps.
        num_anchors: anchors A at every pixel.
        box_dim: numbers D that describe a box.
        conv_dims: channels of the 3x3 convolutions; -1 keeps the number of channels.
    """

    @configurable
    def __init__(self, *, in_channels: int, num_anchors: int, box_dim: int = 4, conv_dims=(-1,)):
        super().__init__()
        channels, convs = in_channels, nn.Sequential()
        for k, conv_dim in enumerate(conv_dims):
            out_channels = channels if conv_dim == -1 else conv_dim
            if out_channels <= 0:
                raise ValueError(f"Conv channels should be greater than 0. Got {out_channels}")
            conv = Conv2d(channels, out_channels, 3, padding=1, activation=nn.ReLU())
            convs.add_module(f"conv{k}", conv)
            channels = out_channels
        # One convolution stands for itself: older checkpoints call it `conv`, not `conv.conv0`.
        self.conv = convs[0] if len(conv_dims) == 1 else convs
        self.objectness_logits = nn.Conv2d(channels, num_anchors, kernel_size=1)
        self.anchor_deltas = nn.Conv2d(channels, num_anchors * box_dim, kernel_size=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.constant_(layer.bias, 0)

    @classmethod
    def from_config(cls, cfg, input_shape):
        anchors = build_anchor_generator(cfg, input_shape)
        return options(cfg.MODEL.RPN, "CONV_DIMS") | {
            "in_channels": same_for_all_levels((s.channels for s in input_shape), "channel"),
            "num_anchors": same_for_all_levels(anchors.num_anchors, "number of anchors"),
            "box_dim": anchors.box_dim,
        }

    def forward(self, features: list[torch.Tensor]):
        """Logits (B, A, H_i, W_i) and deltas (B, A*D, H_i, W_i) of every level."""
        hidden = [self.conv(x) for x in features]
        return [self.objectness_logits(x) for x in hidden], [self.anchor_deltas(x) for x in hidden]


@PROPOSAL_GENERATOR_REGISTRY.register()
class RPN(nn.Module):
    """Region proposal network: scores anchors for being objects, and moves them onto these.

    Args:
        in_features: names of the feature maps to use.
        head: module like `StandardRPNHead`.
        anchor_generator: module like `DefaultAnchorGenerator`.
        anchor_matcher: labels anchors 1 (object), 0 (background) or -1 (ignored).
        box2box_transform: encoding of the deltas.
        batch_size_per_image: anchors of each image in the loss.
        positive_fraction: largest part of objects among them, 0..1.
        pre_nms_topk: proposals kept of each level before NMS, in training and in inference.
        post_nms_topk: proposals kept of each image after NMS, in training and in inference.
        nms_thresh: IoU of the NMS.
        min_box_size: smallest side of a proposal, in pixels of the network's input.
        anchor_boundary_thresh: ignore anchors further than this outside the image, in pixels;
            negative to keep them all.
        loss_weight: of both losses, or by name: ``loss_rpn_cls``, ``loss_rpn_loc``.
        box_reg_loss_type: ``"smooth_l1"``, ``"giou"``, ``"diou"`` or ``"ciou"``.
        smooth_l1_beta: 0 is plain L1.
    """

    @configurable
    def __init__(
        self,
        *,
        in_features: list[str],
        head: nn.Module,
        anchor_generator: nn.Module,
        anchor_matcher: Matcher,
        box2box_transform: Box2BoxTransform,
        batch_size_per_image: int,
        positive_fraction: float,
        pre_nms_topk: tuple[float, float],
        post_nms_topk: tuple[float, float],
        nms_thresh: float = 0.7,
        min_box_size: float = 0.0,
        anchor_boundary_thresh: float = -1.0,
        loss_weight: float | dict[str, float] = 1.0,
        box_reg_loss_type: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
    ):
        super().__init__()
        self.in_features, self.rpn_head, self.anchor_generator = in_features, head, anchor_generator
        self.anchor_matcher, self.box2box_transform = anchor_matcher, box2box_transform
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction
        # by self.training
        self.pre_nms_topk = {True: pre_nms_topk[0], False: pre_nms_topk[1]}
        self.post_nms_topk = {True: post_nms_topk[0], False: post_nms_topk[1]}
        self.nms_thresh, self.min_box_size = nms_thresh, float(min_box_size)
        self.anchor_boundary_thresh = anchor_boundary_thresh
        if isinstance(loss_weight, (int, float)):
            loss_weight = {"loss_rpn_cls": loss_weight, "loss_rpn_loc": loss_weight}
        self.loss_weight = loss_weight
        self.box_reg_loss_type, self.smooth_l1_beta = box_reg_loss_type, smooth_l1_beta

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        rpn = cfg.MODEL.RPN
        shapes = [input_shape[f] for f in rpn.IN_FEATURES]
        loc_weight = rpn.BBOX_REG_LOSS_WEIGHT * rpn.LOSS_WEIGHT
        ret = options(rpn, "IN_FEATURES BATCH_SIZE_PER_IMAGE POSITIVE_FRACTION NMS_THRESH")
        ret |= options(rpn, "SMOOTH_L1_BETA", box_reg_loss_type="BBOX_REG_LOSS_TYPE")
        return ret | {
            "head": build_rpn_head(cfg, shapes),
            "anchor_generator": build_anchor_generator(cfg, shapes),
            "anchor_matcher": Matcher(rpn.IOU_THRESHOLDS, rpn.IOU_LABELS, True),
            "box2box_transform": Box2BoxTransform(weights=rpn.BBOX_REG_WEIGHTS),
            "pre_nms_topk": (rpn.PRE_NMS_TOPK_TRAIN, rpn.PRE_NMS_TOPK_TEST),
            "post_nms_topk": (rpn.POST_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TEST),
            "min_box_size": cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
            "anchor_boundary_thresh": rpn.BOUNDARY_THRESH,
            "loss_weight": {"loss_rpn_cls": rpn.LOSS_WEIGHT, "loss_rpn_loc": loc_weight},
        }

    def _subsample_labels(self, label):
        """Set, in place, all labels to -1 that are not in a random sample."""
        size, fraction = self.batch_size_per_image, self.positive_fraction
        positive, negative = subsample_labels(label, size, fraction, 0)
        return label.fill_(-1).scatter_(0, positive, 1).scatter_(0, negative, 0)

    @torch.no_grad()
    def label_and_sample_anchors(self, anchors: list[Boxes], gt_instances: list[Instances]):
        """Match the anchors of all levels (R of them) to the ground truth of every image.

        Returns:
            labels (R,) of every image: 1, 0, or -1 for those outside the sample;
            matched ground-truth boxes (R, 4) of every image, only meaningful where label is 1.
        """
        anchors = Boxes.cat(anchors)
        gt_labels, matched_gt_boxes = [], []
        for instances in gt_instances:
            gt_boxes = instances.gt_boxes
            # These matrices are large; the CPU may have room for them where the GPU has not.
            quality = retry_if_cuda_oom(pairwise_iou)(gt_boxes, anchors)
            matched_idxs, labels = retry_if_cuda_oom(self.anchor_matcher)(quality)
            labels = labels.to(device=gt_boxes.device)
            if self.anchor_boundary_thresh >= 0:
                inside = anchors.inside_box(instances.image_size, self.anchor_boundary_thresh)
                labels[~inside] = -1
            gt_labels.append(self._subsample_labels(labels))
            empty = len(gt_boxes) == 0
            matched = torch.zeros_like(anchors.tensor) if empty else gt_boxes[matched_idxs].tensor
            matched_gt_boxes.append(matched)
        return gt_labels, matched_gt_boxes

    def losses(self, anchors, pred_objectness_logits, gt_labels, pred_anchor_deltas, gt_boxes):
        """Losses of the sampled anchors, divided by the size of a full sample.

        Args:
            anchors: of every level, H_i * W_i * A.
            pred_objectness_logits: of every level, (B, H_i * W_i * A).
            gt_labels: of every image, as `label_and_sample_anchors` gives them.
            pred_anchor_deltas: of every level, (B, H_i * W_i * A, 4).
            gt_boxes: of every image, likewise.
        """
        num_images = len(gt_labels)
        labels = torch.stack(gt_labels)
        positive = labels == 1
        storage = get_event_storage()
        storage.put_scalar("rpn/num_pos_anchors", positive.sum().item() / num_images)
        storage.put_scalar("rpn/num_neg_anchors", (labels == 0).sum().item() / num_images)

        boxes = (anchors, self.box2box_transform, pred_anchor_deltas, gt_boxes, positive)
        loc = _dense_box_regression_loss(*boxes, self.box_reg_loss_type, self.smooth_l1_beta)
        sampled = labels >= 0
        logits, truth = cat(pred_objectness_logits, dim=1)[sampled], labels[sampled].float()
        objectness = nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="sum")
        size = self.batch_size_per_image * num_images
        losses = {"loss_rpn_cls": objectness / size, "loss_rpn_loc": loc / size}
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def forward(self, images: ImageList, features: dict[str, torch.Tensor], gt_instances=None):
        """Propose boxes.

        Args:
            images: the network's input, for its sizes.
            features: feature maps by name.
            gt_instances: of every image, with ``gt_boxes``; needed in training.

        Returns:
            proposals: for every image `Instances` with ``proposal_boxes``, ``objectness_logits``;
            losses: by name; empty in inference.
        """
        features = [features[f] for f in self.in_features]
        anchors = self.anchor_generator(features)
        logits, deltas = self.rpn_head(features)
        box_dim = self.anchor_generator.box_dim
        # (B, A, H, W) -> (B, H*W*A); (B, A*D, H, W) -> (B, H*W*A, D)
        logits = [level.permute(0, 2, 3, 1).flatten(1) for level in logits]
        deltas = [level.permute(0, 2, 3, 1).flatten(1) for level in deltas]
        deltas = [level.unflatten(1, (-1, box_dim)) for level in deltas]
        losses = {}
        if self.training:
            assert gt_instances is not None, "RPN requires gt_instances in training!"
            gt_labels, gt_boxes = self.label_and_sample_anchors(anchors, gt_instances)
            losses = self.losses(anchors, logits, gt_labels, deltas, gt_boxes)
        return self.predict_proposals(anchors, logits, deltas, images.image_sizes), losses

    # No gradient through the boxes: proposals are constants to the heads
    # (https://arxiv.org/abs/1506.01497, section 3.2).
    @torch.no_grad()
    def predict_proposals(self, anchors, pred_objectness_logits, pred_anchor_deltas, image_sizes):
        """Decode the predictions and keep the best; arguments as in `losses`."""
        proposals = []  # of every level, (B, H_i * W_i * A, D)
        for anchors_i, deltas_i in zip(anchors, pred_anchor_deltas, strict=True):
            repeated = anchors_i.tensor.repeat(deltas_i.shape[0], 1)
            boxes = self.box2box_transform.apply_deltas(deltas_i.flatten(0, 1), repeated)
            proposals.append(boxes.view_as(deltas_i))
        topk = (self.pre_nms_topk[self.training], self.post_nms_topk[self.training])
        limits = (self.nms_thresh, *topk, self.min_box_size, self.training)
        return find_top_rpn_proposals(proposals, pred_objectness_logits, image_sizes, *limits)
