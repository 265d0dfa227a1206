"""Panoptic FPN (https://arxiv.org/abs/1901.02446)."""

import torch
from torch import nn

from .._options import configurable
from ..postprocessing import detector_postprocess, sem_seg_postprocess
from .build import META_ARCH_REGISTRY
from .image_model import output_size
from .rcnn import GeneralizedRCNN
from .semantic_seg import build_sem_seg_head


@META_ARCH_REGISTRY.register()
class PanopticFPN(GeneralizedRCNN):
    """Mask R-CNN with a semantic head, whose results are merged into one panoptic map.

    Args:
        sem_seg_head: module like `SemSegFPNHead`.
        combine_overlap_thresh: see `combine_semantic_and_instance_outputs`.
        combine_stuff_area_thresh: likewise.
        combine_instances_score_thresh: likewise.
        kwargs: arguments of `GeneralizedRCNN`.
    """

    @configurable
    def __init__(
        self,
        *,
        sem_seg_head: nn.Module,
        combine_overlap_thresh: float = 0.5,
        combine_stuff_area_thresh: float = 4096,
        combine_instances_score_thresh: float = 0.5,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.sem_seg_head = sem_seg_head
        self.combine_overlap_thresh = combine_overlap_thresh
        self.combine_stuff_area_thresh = combine_stuff_area_thresh
        self.combine_instances_score_thresh = combine_instances_score_thresh

    @classmethod
    def from_config(cls, cfg):
        ret = super().from_config(cfg)
        ret["sem_seg_head"] = build_sem_seg_head(cfg, ret["backbone"].output_shape())
        node = cfg.MODEL.PANOPTIC_FPN
        combine, factor = node.COMBINE, node.INSTANCE_LOSS_WEIGHT
        if factor != 1.0:  # a key that is older than the weights of each head
            box_weights = ret["roi_heads"].box_predictor.loss_weight
            box_weights.update({name: weight * factor for name, weight in box_weights.items()})
            ret["roi_heads"].mask_head.loss_weight *= factor
        ret["combine_overlap_thresh"] = combine.OVERLAP_THRESH
        ret["combine_stuff_area_thresh"] = combine.STUFF_AREA_LIMIT
        return ret | {"combine_instances_score_thresh": combine.INSTANCES_CONFIDENCE_THRESH}

    def forward(self, batched_inputs):
        """Train or predict.

        Args:
            batched_inputs: one dictionary for each image, as of `GeneralizedRCNN`, with
                ``sem_seg`` (H, W) too in training: 0 for all things, other labels for stuff.

        Returns:
            in training the losses by name; else for each image a dictionary of ``instances``
            (as `GeneralizedRCNN`), ``sem_seg`` (logits, as `SemanticSegmentor`), and
            ``panoptic_seg`` (see `combine_semantic_and_instance_outputs`).
        """
        if not self.training:
            return self.inference(batched_inputs)
        images, features = self._extract(batched_inputs)
        assert "sem_seg" in batched_inputs[0], "PanopticFPN needs 'sem_seg' labels in training"
        _, losses = self.sem_seg_head(features, self._batch_sem_seg(batched_inputs))
        truth = self._gather_instances(batched_inputs)
        _, _, rpn_losses, roi_losses = self._detect(batched_inputs, images, features, truth)
        return {**losses, **rpn_losses, **roi_losses}

    def inference(self, batched_inputs: list[dict[str, torch.Tensor]], do_postprocess=True):
        """Predict.

        Args:
            batched_inputs: as in `forward`.
            do_postprocess: resize to the wanted sizes, and merge.

        Returns:
            as `forward`; without ``do_postprocess`` the instances of every image and the
            semantic logits of the batch, at the size of the network's input.
        """
        images, features = self._extract(batched_inputs)
        sem_seg_results, _ = self.sem_seg_head(features, None)
        _, detector_results, *_ = self._detect(batched_inputs, images, features)
        if not do_postprocess:
            return detector_results, sem_seg_results
        results = (sem_seg_results, detector_results, batched_inputs, images.image_sizes)
        return [self._merge(*result) for result in zip(*results, strict=True)]

    def _merge(self, sem_seg, instances, inputs, image_size):
        """All results of one image, at the size that its input asks for."""
        wanted_size = output_size(inputs, image_size)
        sem_seg = sem_seg_postprocess(sem_seg, image_size, *wanted_size)
        instances = detector_postprocess(instances, *wanted_size)
        overlap, stuff_area = self.combine_overlap_thresh, self.combine_stuff_area_thresh
        limits = (overlap, stuff_area, self.combine_instances_score_thresh)
        merged = combine_semantic_and_instance_outputs(instances, sem_seg.argmax(dim=0), *limits)
        return {"sem_seg": sem_seg, "instances": instances, "panoptic_seg": merged}


def combine_semantic_and_instance_outputs(
    instance_results, semantic_results, overlap_threshold, stuff_area_thresh, instances_score_thresh
):
    """Merge detections and semantic labels into a map without overlaps.

    Instances go first, by score; stuff gets the pixels that are left.

    Args:
        instance_results: with ``scores``, ``pred_classes``, ``pred_masks`` (N, H, W).
        semantic_results: labels (H, W); 0 stands for all things, others are stuff.
        overlap_threshold: drop an instance if more than this fraction of it is taken already.
        stuff_area_thresh: drop stuff smaller than this, in pixels.
        instances_score_thresh: drop instances of a lower score.

    Returns:
        panoptic_seg: int32 (H, W), ids of segments, 0 for none;
        segments_info: for each segment its ``id``, ``isthing``, ``category_id``, and either
            ``score`` and ``instance_id`` (index among the instances), or ``area`` in pixels.
    """
    panoptic_seg = torch.zeros_like(semantic_results, dtype=torch.int32)
    segments_info = []
    masks = instance_results.pred_masks.to(dtype=torch.bool, device=panoptic_seg.device)

    def add(pixels, **info):
        segments_info.append({"id": len(segments_info) + 1, **info})
        panoptic_seg[pixels] = len(segments_info)

    for inst_id in torch.argsort(-instance_results.scores).tolist():
        score = instance_results.scores[inst_id].item()
        if score < instances_score_thresh:
            break
        mask = masks[inst_id]
        free = mask & (panoptic_seg == 0)
        area, taken = mask.sum().item(), (mask & ~free).sum().item()
        if area > 0 and taken / area <= overlap_threshold:
            label = instance_results.pred_classes[inst_id].item()
            add(free, isthing=True, score=score, category_id=label, instance_id=inst_id)

    for label in torch.unique(semantic_results).tolist():
        free = (semantic_results == label) & (panoptic_seg == 0)
        area = free.sum().item()
        if label != 0 and area >= stuff_area_thresh:
            add(free, isthing=False, category_id=label, area=area)
    return panoptic_seg, segments_info
