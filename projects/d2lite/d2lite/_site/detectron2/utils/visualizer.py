"""Drawing of predictions and annotations over images, with matplotlib."""

from enum import Enum, unique

import numpy as np
import torch
from PIL import Image

from detectron2.structures import BitMasks, Boxes, BoxMode, PolygonMasks
from detectron2.utils.file_io import PathManager

from ._canvas import Canvas, VisImage
from ._generic_mask import GenericMask
from .colormap import random_color

__all__ = ["ColorMode", "VisImage", "Visualizer"]

_OFF_WHITE = (1.0, 1.0, 240.0 / 255)


@unique
class ColorMode(Enum):
    """How instances are coloured."""

    IMAGE = 0  # every instance its own colour
    SEGMENTATION = 1  # instances of a class share the metadata's colour, slightly varied
    IMAGE_BW = 2  # as IMAGE, with the image grey where no mask is


class _PanopticPrediction:
    """A panoptic map and its segments, largest first."""

    def __init__(self, panoptic_seg, segments_info, metadata=None):
        self._seg = panoptic_seg
        ids, areas = torch.unique(panoptic_seg, sorted=True, return_counts=True)
        if segments_info is None:
            assert metadata is not None
            things, segments_info = metadata.thing_dataset_id_to_contiguous_id.values(), []
            for i in ids[ids != -1].tolist():
                category = i // metadata.label_divisor
                segment = {"id": i, "category_id": category, "isthing": category in things}
                segments_info.append(segment)
        area = dict(zip(ids.tolist(), areas.tolist(), strict=True))
        self._sinfo = {s["id"]: s | {"area": float(area.get(s["id"], 0))} for s in segments_info}
        self._seg_ids = ids[np.argsort(-areas.numpy())].tolist()

    def non_empty_mask(self):
        """(H, W) mask of what belongs to a segment."""
        empty = [i for i in self._seg_ids if i not in self._sinfo]
        if not empty:
            return np.zeros(self._seg.shape, dtype=np.uint8)
        assert len(empty) == 1, ">1 ids corresponds to no labels. This is currently not supported"
        return (self._seg != empty[0]).numpy()

    def _masks(self, things: bool):
        for segment_id in self._seg_ids:
            segment = self._sinfo.get(segment_id)
            if segment is not None and bool(segment["isthing"]) == things:
                yield (self._seg == segment_id).numpy(), segment

    def semantic_masks(self):
        """Pairs of mask (H, W) and segment, for stuff."""
        yield from self._masks(things=False)

    def instance_masks(self):
        """Pairs of mask (H, W) and segment, for things."""
        yield from self._masks(things=True)


def _create_text_labels(classes, scores, class_names, is_crowd=None):
    """Labels such as "cat 98%|crowd"; None if there are neither classes nor scores."""
    columns = []
    if classes is not None:
        columns.append([class_names[i] if class_names else str(i) for i in classes])
    if scores is not None:
        columns.append([f"{score * 100:.0f}%" for score in scores])
    labels = [" ".join(row) for row in zip(*columns, strict=False)] if columns else None
    if labels is not None and is_crowd is not None:
        pairs = zip(labels, is_crowd, strict=False)
        labels = [label + "|crowd" * bool(crowd) for label, crowd in pairs]
    return labels


class Visualizer(Canvas):
    """Draws on one image; every ``draw_*`` method returns the `VisImage`.

    The high-level methods (``draw_instance_predictions``, ``draw_sem_seg``,
    ``draw_panoptic_seg``, ``draw_dataset_dict``, ``overlay_instances``) choose colours, places and
    sizes by themselves; the others draw one thing each. Sizes are in pixels of the image.
    """

    def __init__(self, img_rgb, metadata=None, scale=1.0, instance_mode=ColorMode.IMAGE):
        """Start from an image (H, W, 3) RGB in 0..255; `metadata` names classes and colours."""
        super().__init__(img_rgb, metadata, scale)
        self.cpu_device = torch.device("cpu")
        self._instance_mode = instance_mode

    def _thing_colors(self, categories):
        return [self._jitter([x / 255 for x in self.metadata.thing_colors[c]]) for c in categories]

    def _stuff_color(self, category):
        try:
            return [x / 255 for x in self.metadata.stuff_colors[category]]
        except (AttributeError, IndexError):
            return None

    def _class_colors(self, categories):
        """The metadata's colours where this mode asks for them, else None."""
        by_class = self._instance_mode == ColorMode.SEGMENTATION
        if by_class and self.metadata.get("thing_colors") and categories is not None:
            return self._thing_colors(categories)
        return None

    def draw_instance_predictions(self, predictions):
        """Draw what `predictions` have of boxes, masks, classes, scores, keypoints (on the CPU)."""
        field = predictions.get_fields().get
        classes, masks = field("pred_classes"), field("pred_masks")
        classes = None if classes is None else classes.tolist()
        names = self.metadata.get("thing_classes", None)
        labels = _create_text_labels(classes, field("scores"), names)
        colors = self._class_colors(classes)
        alpha = 0.5 if colors is None else 0.8
        if self._instance_mode == ColorMode.IMAGE_BW:
            covered = None if masks is None else (masks.any(dim=0) > 0).numpy()
            self.output.reset_image(self._create_grayscale_image(covered))
            alpha = 0.3
        return self.overlay_instances(
            masks=None if masks is None else [np.asarray(m) for m in masks],
            boxes=field("pred_boxes"),
            labels=labels,
            keypoints=field("pred_keypoints"),
            assigned_colors=colors,
            alpha=alpha,
        )

    def draw_sem_seg(self, sem_seg, area_threshold=None, alpha=0.8):
        """Draw a label map (H, W); labels beyond the metadata's ``stuff_classes`` are left out."""
        sem_seg = sem_seg.numpy() if isinstance(sem_seg, torch.Tensor) else sem_seg
        labels, areas = np.unique(sem_seg, return_counts=True)
        for label in labels[np.argsort(-areas)].tolist():
            if label < len(self.metadata.stuff_classes):
                mask = (sem_seg == label).astype(np.uint8)
                self._draw_stuff(mask, label, area_threshold, alpha, _OFF_WHITE)
        return self.output

    def _draw_stuff(self, mask, category, area_threshold, alpha, edge_color=None):
        self.draw_binary_mask(
            mask,
            color=self._stuff_color(category),
            edge_color=edge_color,
            text=self.metadata.stuff_classes[category],
            alpha=alpha,
            area_threshold=area_threshold,
        )

    def draw_panoptic_seg(self, panoptic_seg, segments_info, area_threshold=None, alpha=0.7):
        """Draw a panoptic map.

        Args:
            panoptic_seg: integer tensor (H, W) of segment ids.
            segments_info: dicts of ``id``, ``category_id``, ``isthing`` and maybe ``score``; None:
                ids are ``category * metadata.label_divisor + instance``, -1 is void.
            area_threshold: stuff pieces under so many pixels are left out.
            alpha: opacity of the masks, 0..1.
        """
        pred = _PanopticPrediction(panoptic_seg, segments_info, self.metadata)
        if self._instance_mode == ColorMode.IMAGE_BW:
            self.output.reset_image(self._create_grayscale_image(pred.non_empty_mask()))
        for mask, segment in pred.semantic_masks():
            self._draw_stuff(mask, segment["category_id"], area_threshold, alpha, _OFF_WHITE)
        instances = list(pred.instance_masks())
        if not instances:
            return self.output
        masks, segments = zip(*instances, strict=True)
        categories = [s["category_id"] for s in segments]
        scored = all("score" in s for s in segments)
        scores = [s["score"] for s in segments] if scored else None
        crowds = [s.get("iscrowd", 0) for s in segments]
        labels = _create_text_labels(categories, scores, self.metadata.thing_classes, crowds)
        colors = self._thing_colors(categories) if hasattr(self.metadata, "thing_colors") else None
        return self.overlay_instances(
            masks=masks, labels=labels, assigned_colors=colors, alpha=alpha
        )

    draw_panoptic_seg_predictions = draw_panoptic_seg

    def draw_dataset_dict(self, dic):
        """Draw the annotations of a data set dict: instances, semantic and panoptic labels."""
        annotations = dic.get("annotations", None)
        if annotations:
            self._draw_annotations(annotations)
        sem_seg = dic.get("sem_seg", None)
        if sem_seg is None and "sem_seg_file_name" in dic:
            sem_seg = _read_pixels(dic["sem_seg_file_name"]).astype("uint8")
        if sem_seg is not None:
            self.draw_sem_seg(sem_seg, area_threshold=0, alpha=0.5)
        pan_seg = dic.get("pan_seg", None)
        if pan_seg is None and "pan_seg_file_name" in dic:
            pan_seg = _read_pixels(dic["pan_seg_file_name"]).astype(int) @ (1, 256, 65536)
        if pan_seg is not None:
            pan_seg = torch.as_tensor(pan_seg)
            self.draw_panoptic_seg(pan_seg, dic["segments_info"], area_threshold=0, alpha=0.5)
        return self.output

    def _draw_annotations(self, annotations):
        masks = keypoints = None
        if "segmentation" in annotations[0]:
            masks = [a["segmentation"] for a in annotations]
        if "keypoints" in annotations[0]:
            keypoints = np.array([a["keypoints"] for a in annotations])
            keypoints = keypoints.reshape(len(annotations), -1, 3)
        labels = _create_text_labels(
            [a["category_id"] for a in annotations],
            scores=None,
            class_names=self.metadata.get("thing_classes", None),
            is_crowd=[a.get("iscrowd", 0) for a in annotations],
        )
        self.overlay_instances(
            labels=labels,
            boxes=[_drawn_box(a) for a in annotations],
            masks=masks,
            keypoints=keypoints,
            assigned_colors=self._class_colors([a["category_id"] for a in annotations]),
        )

    def overlay_instances(
        self,
        *,
        boxes=None,
        labels=None,
        masks=None,
        keypoints=None,
        assigned_colors=None,
        alpha=0.5,
    ):
        """Draw instances, the largest first; all lists have one entry for each.

        Args:
            boxes: `Boxes` or (N, 4) x0, y0, x1, y1; (N, 5) are rotated: cx, cy, w, h, degrees.
            labels: texts.
            masks: `BitMasks`, `PolygonMasks`, or what `GenericMask` takes, for each.
            keypoints: (N, K, 3) of x, y, probability.
            assigned_colors: by matplotlib's rules; None: random.
            alpha: opacity of the masks.
        """
        boxes = None if boxes is None else self._convert_boxes(boxes)
        masks = None if masks is None else self._convert_masks(masks)
        keypoints = None if keypoints is None else self._convert_keypoints(keypoints)
        counts = [len(part) for part in (boxes, masks, keypoints) if part is not None]
        count = max(counts, default=0)
        assert set(counts) <= {count}, f"boxes, masks, keypoints of {counts} instances"
        assert labels is None or len(labels) == count, f"{len(labels)} labels, {count} instances"
        if assigned_colors is None:
            assigned_colors = [random_color(rgb=True, maximum=1) for _ in range(count)]
        if count == 0:
            return self.output
        if boxes is not None and boxes.shape[1] == 5:
            return self.overlay_rotated_instances(boxes, labels, assigned_colors)
        order = range(count)
        if boxes is not None:
            order = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)).tolist()
        elif masks is not None:
            order = np.argsort(-np.array([m.area() for m in masks], dtype=float)).tolist()
        for i in order:
            if boxes is not None:
                self.draw_box(boxes[i], edge_color=assigned_colors[i])
            if masks is not None:
                for polygon in masks[i].polygons:
                    self.draw_polygon(polygon.reshape(-1, 2), assigned_colors[i], alpha=alpha)
            if labels is not None:
                box, mask = (None if x is None else x[i] for x in (boxes, masks))
                self._label_instance(labels[i], assigned_colors[i], box, mask)
        for points in () if keypoints is None else keypoints:
            self.draw_and_connect_keypoints(points)
        return self.output

    def overlay_rotated_instances(self, boxes=None, labels=None, assigned_colors=None):
        """Draw rotated boxes (N, 5) of cx, cy, w, h, degrees counter-clockwise."""
        count = len(boxes)
        if assigned_colors is None:
            assigned_colors = [random_color(rgb=True, maximum=1) for _ in range(count)]
        boxes = np.asarray(boxes).reshape(count, -1)
        for i in np.argsort(-(boxes[:, 2] * boxes[:, 3])).tolist() if count else ():
            label = None if labels is None else labels[i]
            self.draw_rotated_box_with_label(boxes[i], edge_color=assigned_colors[i], label=label)
        return self.output

    def _create_grayscale_image(self, mask=None):
        """The image (H, W, 3) in grey, coloured only where `mask` is."""
        grey = np.repeat(self.img.astype("f4").mean(axis=2, keepdims=True), 3, axis=2)
        if mask is not None:
            grey[mask] = self.img[mask]
        return grey

    def _convert_boxes(self, boxes):
        return boxes.tensor.detach().numpy() if isinstance(boxes, Boxes) else np.asarray(boxes)

    def _convert_masks(self, masks_or_polygons):
        masks = masks_or_polygons
        if isinstance(masks, (PolygonMasks, BitMasks)):
            masks = masks.polygons if isinstance(masks, PolygonMasks) else masks.tensor
        masks = masks.numpy() if isinstance(masks, torch.Tensor) else masks
        size = self.output.height, self.output.width
        return [m if isinstance(m, GenericMask) else GenericMask(m, *size) for m in masks]

    def _convert_keypoints(self, keypoints):
        return np.asarray(getattr(keypoints, "tensor", keypoints))


def _drawn_box(annotation: dict):
    """XYXY, or as it is where it is rotated."""
    bbox, mode = annotation["bbox"], annotation["bbox_mode"]
    return BoxMode.convert(bbox, mode, BoxMode.XYXY_ABS) if len(bbox) == 4 else bbox


def _read_pixels(path: str) -> np.ndarray:
    with PathManager.open(path, "rb") as file:
        return np.asarray(Image.open(file))
