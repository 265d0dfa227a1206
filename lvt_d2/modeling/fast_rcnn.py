"""Box predictor that selects detections twice: for box and mask AP, and for the panoptic merge."""

import torch
from detectron2.layers import batched_nms
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from torch import Tensor


class PanopticFastRCNNOutputLayers(FastRCNNOutputLayers):
    """Detectron2's ``FastRCNNOutputLayers`` with a second selection for the panoptic merge.

    Average precision wants many detections, one NMS per class; the published merge wants few: a
    score above 0.6 and one NMS across all classes. At inference both selections are returned in
    one ``Instances``, told apart by the boolean fields ``for_detection`` and ``for_merge``, which
    ``MergePanopticFPN`` reads.

    Args:
        input_shape: shape of the box features, as for ``FastRCNNOutputLayers``.
        merge_score_thresh: detections for the merge score above this, 0..1.
        merge_nms_thresh: IoU of the class-agnostic NMS among them, 0..1.
        merge_topk: most detections for the merge in an image.
        **kwargs: as for ``FastRCNNOutputLayers``.
    """

    def __init__(
        self,
        input_shape,
        *,
        merge_score_thresh: float = 0.6,
        merge_nms_thresh: float = 0.5,
        merge_topk: int = 100,
        **kwargs,
    ):
        super().__init__(input_shape=input_shape, **kwargs)
        self.merge_score_thresh = merge_score_thresh
        self.merge_nms_thresh = merge_nms_thresh
        self.merge_topk = merge_topk

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """Select the detections of each image.

        Returns:
            Instances with ``pred_boxes``, ``scores``, ``pred_classes``, ``for_detection`` and
            ``for_merge``, and the indices of the proposals they come from.
        """
        detections, kept = super().inference(predictions, proposals)
        boxes = self.predict_boxes(predictions, proposals)
        scores = self.predict_probs(predictions, proposals)
        results, indices = [], []
        for i, detected in enumerate(detections):
            merged, merged_from = self._select_for_merge(boxes[i], scores[i], detected.image_size)
            results.append(
                Instances.cat([_flag(detected, "for_detection"), _flag(merged, "for_merge")])
            )
            indices.append(torch.cat([kept[i], merged_from]))
        return results, indices

    def _select_for_merge(
        self, boxes: Tensor, scores: Tensor, image_size: tuple[int, int]
    ) -> tuple[Instances, Tensor]:
        """One image: (R, K*4) or (R, 4) boxes and (R, K+1) scores, background last."""
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
        rows, classes = torch.where(
            (scores[:, :-1] > self.merge_score_thresh) & finite.unsqueeze(1)
        )
        scores = scores[rows, classes]
        boxes = Boxes(boxes.unflatten(-1, (-1, 4))[rows, classes if boxes.shape[1] > 4 else 0])
        boxes.clip(image_size)
        # One NMS across the classes: all boxes count as one class.
        keep = batched_nms(boxes.tensor, scores, torch.zeros_like(classes), self.merge_nms_thresh)[
            : self.merge_topk
        ]
        selected = Instances(
            image_size, pred_boxes=boxes[keep], scores=scores[keep], pred_classes=classes[keep]
        )
        return selected, rows[keep]


def _flag(instances: Instances, name: str) -> Instances:
    """Set both flags of an image's instances, the one called ``name`` to True."""
    for field in ("for_detection", "for_merge"):
        like = torch.ones_like if field == name else torch.zeros_like
        instances.set(field, like(instances.pred_classes, dtype=torch.bool))
    return instances
