"""Classes and boxes of regions: losses and inference of Fast R-CNN."""

import torch
from torch import nn

from detectron2.layers import ShapeSpec, batched_nms, cat, cross_entropy, nonzero_tuple
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage

from .._options import configurable, options
from ..box_regression import Box2BoxTransform, _dense_box_regression_loss


def fast_rcnn_inference(boxes, scores, image_shapes, score_thresh, nms_thresh, topk_per_image):
    """Detections of every image: score threshold, NMS within each class, then the best.

    Args:
        boxes: of every image, (n, classes * 4), or (n, 4) if all classes share them.
        scores: of every image, (n, classes + 1), the last one for background.
        image_shapes: (height, width) of every image.
        score_thresh: only scores above it.
        nms_thresh: IoU above which the weaker of two boxes is dropped.
        topk_per_image: how many to keep; negative for all.

    Returns:
        instances: of every image, with ``pred_boxes``, ``scores``, ``pred_classes``, best first;
        indices: of every image, which of its n boxes each detection is.
    """
    limits = (score_thresh, nms_thresh, topk_per_image)
    images = zip(boxes, scores, image_shapes, strict=True)
    results = [fast_rcnn_inference_single_image(*image, *limits) for image in images]
    return [instances for instances, _ in results], [indices for _, indices in results]


def fast_rcnn_inference_single_image(
    boxes, scores, image_shape, score_thresh, nms_thresh, topk_per_image
):
    """`fast_rcnn_inference` for one image."""
    finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
    if not finite.all():
        boxes, scores = boxes[finite], scores[finite]
    box_ids, class_ids = nonzero_tuple(scores[:, :-1] > score_thresh)
    scores, boxes = scores[box_ids, class_ids], boxes.unflatten(1, (-1, 4))
    boxes = Boxes(boxes[box_ids, class_ids if boxes.shape[1] > 1 else 0])
    boxes.clip(image_shape)
    keep = batched_nms(boxes.tensor, scores, class_ids, nms_thresh)
    keep = keep[:topk_per_image] if topk_per_image >= 0 else keep
    fields = {"pred_boxes": boxes, "scores": scores, "pred_classes": class_ids}
    return Instances(image_shape, **fields)[keep], box_ids[keep]


def _log_classification_stats(pred_logits, gt_classes, prefix="fast_rcnn"):
    """Log accuracy over all boxes, and over foreground, and foreground called background."""
    if gt_classes.numel() == 0:
        return
    pred_classes, background = pred_logits.argmax(dim=1), pred_logits.shape[1] - 1
    right, missed = pred_classes == gt_classes, pred_classes == background
    foreground = (gt_classes >= 0) & (gt_classes < background)
    stats = {"cls_accuracy": right}
    if foreground.any():
        stats |= {"fg_cls_accuracy": right[foreground], "false_negative": missed[foreground]}
    for name, hits in stats.items():
        get_event_storage().put_scalar(f"{prefix}/{name}", hits.double().mean().item())


class FastRCNNOutputLayers(nn.Module):
    """Two linear layers on the features of a box: scores of classes, and deltas of boxes.

    Args:
        input_shape: shape, or number, of the features.
        box2box_transform: encoding of the deltas.
        num_classes: number of foreground classes K.
        test_score_thresh: see `fast_rcnn_inference`.
        test_nms_thresh: likewise.
        test_topk_per_image: likewise.
        cls_agnostic_bbox_reg: one box for all classes.
        smooth_l1_beta: 0 is plain L1.
        box_reg_loss_type: ``"smooth_l1"``, ``"giou"``, ``"diou"`` or ``"ciou"``.
        loss_weight: of both losses, or by name: ``loss_cls``, ``loss_box_reg``.
        use_fed_loss: federated loss: negatives only from a sample of the classes
            (https://arxiv.org/abs/2103.07461); needs ``use_sigmoid_ce``.
        use_sigmoid_ce: a sigmoid for each class in place of the softmax.
        get_fed_loss_cls_weights: gives (K,) weights with which classes are drawn.
        fed_loss_num_classes: classes in each sample.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        box2box_transform,
        num_classes: int,
        test_score_thresh: float = 0.0,
        test_nms_thresh: float = 0.5,
        test_topk_per_image: int = 100,
        cls_agnostic_bbox_reg: bool = False,
        smooth_l1_beta: float = 0.0,
        box_reg_loss_type: str = "smooth_l1",
        loss_weight: float | dict[str, float] = 1.0,
        use_fed_loss: bool = False,
        use_sigmoid_ce: bool = False,
        get_fed_loss_cls_weights=None,
        fed_loss_num_classes: int = 50,
    ):
        super().__init__()
        if isinstance(input_shape, int):
            input_shape = ShapeSpec(channels=input_shape)
        input_size = input_shape.channels * (input_shape.width or 1) * (input_shape.height or 1)
        box_size = len(box2box_transform.weights) * (1 if cls_agnostic_bbox_reg else num_classes)
        self.cls_score = nn.Linear(input_size, num_classes + 1)
        self.bbox_pred = nn.Linear(input_size, box_size)
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.constant_(layer.bias, 0)
        self.num_classes, self.box2box_transform = num_classes, box2box_transform
        self.test_score_thresh, self.test_nms_thresh = test_score_thresh, test_nms_thresh
        self.test_topk_per_image = test_topk_per_image
        self.box_reg_loss_type, self.smooth_l1_beta = box_reg_loss_type, smooth_l1_beta
        if isinstance(loss_weight, (int, float)):
            loss_weight = {"loss_cls": loss_weight, "loss_box_reg": loss_weight}
        self.loss_weight, self.fed_loss_num_classes = loss_weight, fed_loss_num_classes
        self.use_fed_loss, self.use_sigmoid_ce = use_fed_loss, use_sigmoid_ce
        if use_fed_loss:
            assert use_sigmoid_ce, "Please use sigmoid cross entropy loss with federated loss"
            # Configs give none: only LVIS has frequencies, and only Detectron2 has LVIS.
            assert get_fed_loss_cls_weights, "Federated loss needs get_fed_loss_cls_weights"
            weights = get_fed_loss_cls_weights()
            assert len(weights) == num_classes, f"{len(weights)} weights must match {num_classes}"
            self.register_buffer("fed_loss_cls_weights", weights)

    @classmethod
    def from_config(cls, cfg, input_shape):
        node = cfg.MODEL.ROI_BOX_HEAD
        limits = {"test_score_thresh": "SCORE_THRESH_TEST", "test_nms_thresh": "NMS_THRESH_TEST"}
        ret = options(cfg.MODEL.ROI_HEADS, "NUM_CLASSES", **limits)
        ret |= options(node, "CLS_AGNOSTIC_BBOX_REG SMOOTH_L1_BETA USE_FED_LOSS USE_SIGMOID_CE")
        ret |= options(node, "FED_LOSS_NUM_CLASSES", box_reg_loss_type="BBOX_REG_LOSS_TYPE")
        return ret | {
            "input_shape": input_shape,
            "box2box_transform": Box2BoxTransform(weights=node.BBOX_REG_WEIGHTS),
            "test_topk_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "loss_weight": {"loss_box_reg": node.BBOX_REG_LOSS_WEIGHT},
        }

    def forward(self, x):
        """Scores (N, K + 1), background last, and deltas (N, K * 4 or 4), of features (N, ...)."""
        x = x.flatten(1)
        return self.cls_score(x), self.bbox_pred(x)

    def losses(self, predictions, proposals):
        """Losses by name.

        Args:
            predictions: what `forward` returned.
            proposals: of every image, with ``proposal_boxes``, ``gt_boxes`` and ``gt_classes``;
                K there means background.
        """
        scores, proposal_deltas = predictions
        no_boxes = proposal_deltas.new_empty((0, 4))  # there may be no images at all
        gt_classes = cat([no_boxes[:, 0].long(), *(p.gt_classes for p in proposals)])
        proposal_boxes = cat([no_boxes, *(p.proposal_boxes.tensor for p in proposals)])
        assert not proposal_boxes.requires_grad, "Proposals should not require gradients!"
        # Images without ground truth hold background only: any box will do for them.
        gt_boxes = [p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes for p in proposals]
        gt_boxes = cat([no_boxes, *(boxes.tensor for boxes in gt_boxes)])
        _log_classification_stats(scores, gt_classes)

        loss_of_classes = self.sigmoid_cross_entropy_loss if self.use_sigmoid_ce else cross_entropy
        box_loss = self.box_reg_loss(proposal_boxes, gt_boxes, proposal_deltas, gt_classes)
        losses = {"loss_cls": loss_of_classes(scores, gt_classes), "loss_box_reg": box_loss}
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def get_fed_loss_classes(self, gt_classes, num_fed_loss_classes, num_classes, weight):
        """All classes of the ground truth, filled up with drawn ones.

        Args:
            gt_classes: (N,), may hold background.
            num_fed_loss_classes: how many classes to return, unless there are more in the
                ground truth.
            num_classes: number of foreground classes K.
            weight: (K,), with which the others are drawn.

        Returns:
            indices of distinct classes.
        """
        present = torch.unique(gt_classes)
        missing = num_fed_loss_classes - len(present)
        if missing <= 0:
            return present
        chances = present.new_zeros(num_classes + 1, dtype=torch.float32)
        chances[:num_classes] = weight.float()
        chances[present] = 0
        drawn = torch.multinomial(chances, missing, replacement=False)
        return torch.cat([present, drawn])

    def sigmoid_cross_entropy_loss(self, pred_class_logits, gt_classes):
        """Binary cross entropy of each class, summed over classes and averaged over boxes."""
        if pred_class_logits.numel() == 0:
            return pred_class_logits.new_zeros([1])[0]
        num_boxes, num_classes = pred_class_logits.shape[0], pred_class_logits.shape[1] - 1
        target = nn.functional.one_hot(gt_classes, num_classes + 1)[:, :-1].to(pred_class_logits)
        logits = pred_class_logits[:, :-1]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        if self.use_fed_loss:
            drawn = (self.fed_loss_num_classes, num_classes, self.fed_loss_cls_weights)
            weight = pred_class_logits.new_zeros(num_classes + 1)
            weight[self.get_fed_loss_classes(gt_classes, *drawn)] = 1
            loss = loss * weight[:-1]
        return loss.sum() / num_boxes

    def box_reg_loss(self, proposal_boxes, gt_boxes, pred_deltas, gt_classes):
        """Box loss of the foreground, divided by the number of all boxes.

        Every foreground box so counts the same, however many there are in its image.

        Args:
            proposal_boxes: (N, 4).
            gt_boxes: (N, 4).
            pred_deltas: (N, 4 or K * 4).
            gt_classes: (N,).
        """
        fg = nonzero_tuple((gt_classes >= 0) & (gt_classes < self.num_classes))[0]
        deltas = pred_deltas.unflatten(1, (-1, proposal_boxes.shape[1]))
        deltas = deltas[fg, gt_classes[fg] if deltas.shape[1] > 1 else 0]
        boxes, targets = [proposal_boxes[fg]], [gt_boxes[fg]]
        inputs = (boxes, self.box2box_transform, [deltas[None]], targets, ...)
        loss = _dense_box_regression_loss(*inputs, self.box_reg_loss_type, self.smooth_l1_beta)
        return loss / max(gt_classes.numel(), 1.0)

    def inference(self, predictions: tuple[torch.Tensor, torch.Tensor], proposals: list[Instances]):
        """Detections of every image, as `fast_rcnn_inference` returns them."""
        boxes = self.predict_boxes(predictions, proposals)
        probs = self.predict_probs(predictions, proposals)
        limits = (self.test_score_thresh, self.test_nms_thresh, self.test_topk_per_image)
        return fast_rcnn_inference(boxes, probs, [x.image_size for x in proposals], *limits)

    def predict_boxes_for_gt_classes(self, predictions, proposals):
        """Boxes (n, 4) of every image, predicted for the classes of the ground truth.

        Background gets the box of some class.
        """
        if not proposals:
            return []
        boxes = torch.cat(self.predict_boxes(predictions, proposals)).unflatten(1, (-1, 4))
        classes = torch.cat([p.gt_classes for p in proposals]).clamp(0, boxes.shape[1] - 1)
        boxes = boxes[torch.arange(len(boxes), device=boxes.device), classes]
        return boxes.split([len(p) for p in proposals])

    def predict_boxes(self, predictions, proposals: list[Instances]):
        """Boxes (n, K * 4 or 4) of every image."""
        if not proposals:
            return []
        proposal_boxes = cat([p.proposal_boxes.tensor for p in proposals], dim=0)
        boxes = self.box2box_transform.apply_deltas(predictions[1], proposal_boxes)
        # `len` makes integers, which would be constants of a traced graph.
        return boxes.split([p.__len__() for p in proposals])

    def predict_probs(self, predictions, proposals: list[Instances]):
        """Probabilities (n, K + 1) of every image; the last column is background."""
        scores = predictions[0]
        probs = scores.sigmoid() if self.use_sigmoid_ce else scores.softmax(dim=-1)
        return probs.split([p.__len__() for p in proposals])
