"""Drawing of predictions on the frames of a video, with colours that follow the objects."""

from dataclasses import dataclass

import numpy as np
import pycocotools.mask as mask_util

from .colormap import random_color, random_colors
from .visualizer import ColorMode, Visualizer, _create_text_labels, _PanopticPrediction

_FRAMES_REMEMBERED = 8
_BOX_IOU, _MASK_IOU = 0.6, 0.5


@dataclass
class _DetectedInstance:
    """An object of one frame: class, box or RLE, colour, and frames it may be missed yet."""

    label: int
    shape: np.ndarray | dict
    color: tuple | None = None
    ttl: int = _FRAMES_REMEMBERED


class VideoVisualizer:
    """A `Visualizer` for frames in their order: an object keeps its colour from frame to frame."""

    def __init__(self, metadata, instance_mode=ColorMode.IMAGE):
        """Take classes and colours from `metadata`; `instance_mode` is IMAGE or SEGMENTATION."""
        assert instance_mode in [ColorMode.IMAGE, ColorMode.SEGMENTATION], "Mode not supported yet."
        self.metadata, self._instance_mode = metadata, instance_mode
        self._old_instances, self._assigned_colors = [], {}
        self._max_num_instances = self.metadata.get("max_num_instances", 74)
        self._color_pool = random_colors(self._max_num_instances, rgb=True, maximum=1)
        self._color_idx_set = set(range(len(self._color_pool)))

    def draw_instance_predictions(self, frame, predictions):
        """Draw the predictions of a frame (H, W, 3) RGB.

        Colours are the field ``COLOR``, else they follow the field ``ID``, else the overlap with
        the frames before. With ``ID_period``, objects seen for no more frames than the metadata's
        ``period_threshold`` stay hidden.

        Returns:
            the `VisImage` drawn on.
        """
        frame_visualizer = Visualizer(frame, self.metadata)
        count = len(predictions)
        if count == 0:
            return frame_visualizer.output
        field = predictions.get_fields().get
        boxes, classes, colors = field("pred_boxes"), field("pred_classes"), field("COLOR")
        boxes = None if boxes is None else boxes.tensor.numpy()
        classes = None if classes is None else classes.numpy()
        if colors is None and predictions.has("ID"):
            colors = self._assign_colors_by_id(predictions)
        elif colors is None:
            colors = self._assign_colors(list(map(_DetectedInstance, classes, boxes)), _BOX_IOU)
        names, periods = self.metadata.get("thing_classes"), field("ID_period")
        labels = _create_text_labels(classes, field("scores"), names)
        threshold = self.metadata.get("period_threshold", 0)
        shown = [i for i in range(count) if periods is None or periods[i] > threshold]
        shapes = {"masks": field("pred_masks"), "keypoints": field("pred_keypoints")}
        if shapes["masks"] is None:
            shapes["boxes"] = boxes
        return frame_visualizer.overlay_instances(
            **{name: None if shape is None else shape[shown] for name, shape in shapes.items()},
            labels=None if labels is None else [labels[i] for i in shown],
            assigned_colors=[colors[i] for i in shown],
        )

    def draw_sem_seg(self, frame, sem_seg, area_threshold=None):
        """Draw a label map (H, W) on a frame."""
        return Visualizer(frame, self.metadata).draw_sem_seg(sem_seg, area_threshold)

    def draw_panoptic_seg_predictions(
        self, frame, panoptic_seg, segments_info, area_threshold=None, alpha=0.5
    ):
        """Draw a panoptic map on a frame; arguments as of `Visualizer.draw_panoptic_seg`."""
        frame_visualizer = Visualizer(frame, self.metadata)
        pred = _PanopticPrediction(panoptic_seg, segments_info, self.metadata)
        for mask, segment in pred.semantic_masks():
            frame_visualizer._draw_stuff(mask, segment["category_id"], area_threshold, alpha)
        instances = list(pred.instance_masks())
        if not instances:
            return frame_visualizer.output
        masks, segments = zip(*instances, strict=True)
        rles = mask_util.encode(np.asfortranarray(np.stack(masks, axis=2), dtype=np.uint8))
        categories = [segment["category_id"] for segment in segments]
        colors = self._assign_colors(list(map(_DetectedInstance, categories, rles)), _MASK_IOU)
        labels = [self.metadata.thing_classes[k] for k in categories]
        return frame_visualizer.overlay_instances(
            masks=masks, labels=labels, assigned_colors=colors, alpha=alpha
        )

    def _overlaps(self, new) -> np.ndarray:
        """IoU of remembered instances (rows) and new ones; 0 between classes."""
        old = self._old_instances
        if not old:
            return np.zeros((0, len(new)))
        # Boxes' corners are passed where widths and heights are due, as Detectron2 does.
        shapes = [[instance.shape for instance in part] for part in (old, new)]
        ious = mask_util.iou(*shapes, np.zeros(len(new), dtype=np.uint8))
        return np.where(np.equal.outer([i.label for i in old], [i.label for i in new]), ious, 0)

    def _assign_colors(self, instances, threshold):
        """Colours of new instances: those of remembered ones that they overlap, or random ones."""
        missed = []
        for old, row in zip(self._old_instances, self._overlaps(instances), strict=True):
            match = instances[row.argmax()]
            if row.max() > threshold and match.color is None:
                match.color = old.color
            else:
                old.ttl -= 1
                missed.append(old)
        for instance in instances:
            if instance.color is None:
                instance.color = random_color(rgb=True, maximum=1)
        self._old_instances = instances + [old for old in missed if old.ttl > 0]
        return [instance.color for instance in instances]

    def _assign_colors_by_id(self, instances):
        """Colours by the field ``ID``; that of an id which is gone is free again."""
        gone, colors = set(self._assigned_colors).difference(instances.ID), []
        for identity in instances.ID:
            if identity not in self._assigned_colors:
                assert self._color_idx_set, f"More than {self._max_num_instances} ids"
                self._assigned_colors[identity] = self._color_idx_set.pop()
            colors.append(self._color_pool[self._assigned_colors[identity]])
        for identity in gone:
            self._color_idx_set.add(self._assigned_colors.pop(identity))
        return colors
