"""Prediction on several versions of an image, merged."""

import copy
import itertools

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from detectron2.structures import Boxes, Instances

from ._options import configurable, options
from .meta_arch import GeneralizedRCNN
from .postprocessing import detector_postprocess
from .roi_heads.fast_rcnn import fast_rcnn_inference_single_image


class DatasetMapperTTA:
    """Makes an input in several sizes, and mirrored.

    Args:
        min_sizes: lengths of the shorter side, in pixels.
        max_size: limit of the longer side.
        flip: also mirror each of them.
    """

    @configurable
    def __init__(self, min_sizes: list[int], max_size: int, flip: bool):
        self.min_sizes, self.max_size, self.flip = min_sizes, max_size, flip

    @classmethod
    def from_config(cls, cfg):
        return options(cfg.TEST.AUG, "MIN_SIZES MAX_SIZE FLIP")

    def __call__(self, dataset_dict):
        """Augment one input of the model, with ``image`` (C, H, W), ``height`` and ``width``.

        Returns:
            a list of inputs like it, each with ``transforms`` too: those that lead from an
            image of the size (height, width) to its own.
        """
        image = dataset_dict["image"].permute(1, 2, 0).numpy()
        # The image may have been resized by the mapper before this one.
        original_size = (dataset_dict["height"], dataset_dict["width"])
        before = T.ResizeTransform(*original_size, *image.shape[:2])
        flips = [[], [T.RandomFlip(prob=1.0)]] if self.flip else [[]]
        results = []
        for min_size, flip in itertools.product(self.min_sizes, flips):
            recipe = [T.ResizeShortestEdge(min_size, self.max_size), *flip]
            new_image, transforms = T.apply_augmentations(recipe, np.copy(image))
            new = {"transforms": before + transforms, "image": _to_tensor(new_image)}
            results.append(copy.deepcopy(dataset_dict) | new)
        return results


def _to_tensor(image):
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _transformed(boxes, transform):
    moved = transform.apply_box(boxes.tensor.cpu().numpy())
    return torch.from_numpy(moved).to(boxes.device)


class GeneralizedRCNNWithTTA(nn.Module):
    """A `GeneralizedRCNN` with test-time augmentation, in place of its ``__call__``.

    Boxes of all versions are collected and merged by NMS; masks of the merged boxes are
    predicted on all versions and averaged.

    Args:
        cfg: yacs config of the model.
        model: `GeneralizedRCNN`, or one inside DistributedDataParallel.
        tta_mapper: makes the versions; by default `DatasetMapperTTA` of ``cfg``.
        batch_size: how many versions go through the model at once.
    """

    def __init__(self, cfg, model, tta_mapper=None, batch_size=3):
        super().__init__()
        if isinstance(model, DistributedDataParallel):
            model = model.module
        assert isinstance(model, GeneralizedRCNN), f"TTA is for GeneralizedRCNN, not {type(model)}"
        self.cfg = cfg.clone()
        assert not self.cfg.MODEL.KEYPOINT_ON, "TTA for keypoint is not supported yet"
        assert not self.cfg.MODEL.LOAD_PROPOSALS, "TTA for pre-computed proposals is not supported"
        self.tta_mapper = DatasetMapperTTA(cfg) if tta_mapper is None else tta_mapper
        self.model, self.batch_size = model, batch_size

    def __call__(self, batched_inputs):
        """Predict, as `GeneralizedRCNN.forward` does in inference.

        Inputs may name their image by ``file_name`` instead of holding it.
        """
        return [self._inference_one_image(self._with_image(x)) for x in batched_inputs]

    def _with_image(self, inputs):
        """A copy of an input, with its image read and its original size known."""
        inputs = copy.copy(inputs)
        if "image" not in inputs:
            file_name = inputs.pop("file_name")
            inputs["image"] = _to_tensor(read_image(file_name, self.model.input_format))
        if "height" not in inputs and "width" not in inputs:
            inputs["height"], inputs["width"] = inputs["image"].shape[1:]
        return inputs

    def _batch_inference(self, batched_inputs, detected_instances=None):
        """Results of all inputs, in batches, without post-processing."""
        outputs = []
        for start in range(0, len(batched_inputs), self.batch_size):
            part = slice(start, start + self.batch_size)
            given = None if detected_instances is None else detected_instances[part]
            outputs += self.model.inference(batched_inputs[part], given, do_postprocess=False)
        return outputs

    def _inference_one_image(self, inputs):
        """Result of one input with ``image``, ``height`` and ``width``."""
        size = (inputs["height"], inputs["width"])
        augmented_inputs, transforms = self._get_augmented_inputs(inputs)
        # Masks are only wanted for the boxes that survive
        heads = self.model.roi_heads
        mask_on, heads.mask_on = getattr(heads, "mask_on", False), False
        try:
            detections = self._get_augmented_boxes(augmented_inputs, transforms)
        finally:
            heads.mask_on = mask_on
        merged = self._merge_detections(*detections, size)
        if self.cfg.MODEL.MASK_ON:
            instances = self._rescale_detected_boxes(augmented_inputs, merged, transforms)
            outputs = self._batch_inference(augmented_inputs, instances)
            merged.pred_masks = self._reduce_pred_masks(outputs, transforms)
            merged = detector_postprocess(merged, *size)
        return {"instances": merged}

    def _get_augmented_inputs(self, inputs):
        """Versions of an input, and the transforms that made them."""
        augmented_inputs = self.tta_mapper(inputs)
        return augmented_inputs, [x.pop("transforms") for x in augmented_inputs]

    def _get_augmented_boxes(self, augmented_inputs, transforms):
        """Boxes of all versions in the original coordinates, their scores and classes."""
        outputs = self._batch_inference(augmented_inputs)
        pairs = zip(outputs, transforms, strict=True)
        boxes = [_transformed(output.pred_boxes, t.inverse()) for output, t in pairs]
        columns = (boxes, [x.scores for x in outputs], [x.pred_classes for x in outputs])
        return tuple(map(torch.cat, columns))

    def _merge_detections(self, all_boxes, all_scores, all_classes, shape_hw):
        """NMS over the detections of all versions."""
        heads, limit = self.cfg.MODEL.ROI_HEADS, self.cfg.TEST.DETECTIONS_PER_IMAGE
        # Class scores as the box branch would give them, one class for each box
        scores = torch.zeros(len(all_boxes), heads.NUM_CLASSES + 1, device=all_boxes.device)
        scores[torch.arange(len(all_boxes)), all_classes] = all_scores
        limits = (1e-8, heads.NMS_THRESH_TEST, limit)
        return fast_rcnn_inference_single_image(all_boxes, scores, shape_hw, *limits)[0]

    def _rescale_detected_boxes(self, augmented_inputs, merged_instances, transforms):
        """The merged instances in the coordinates of every version."""
        instances, fields = [], merged_instances.get_fields()
        for inputs, transform in zip(augmented_inputs, transforms, strict=True):
            boxes = Boxes(_transformed(merged_instances.pred_boxes, transform))
            size = inputs["image"].shape[1:3]
            instances.append(Instances(size, **fields | {"pred_boxes": boxes}))
        return instances

    def _reduce_pred_masks(self, outputs, transforms):
        """Mean of the masks (N, 1, M, M) of all versions, mirrored ones turned back."""
        masks = []
        for output, transform in zip(outputs, transforms, strict=True):
            mirrored = any(isinstance(t, T.HFlipTransform) for t in transform.transforms)
            masks.append(output.pred_masks.flip(dims=[3]) if mirrored else output.pred_masks)
        return torch.stack(masks).mean(dim=0)
