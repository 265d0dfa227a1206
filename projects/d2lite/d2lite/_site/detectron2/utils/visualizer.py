"""Drawing of predictions and annotations over images, with matplotlib."""

import colorsys
import math
from enum import Enum, unique
from functools import partialmethod
from itertools import pairwise, repeat

import matplotlib.colors as mplc
import numpy as np
import pycocotools.mask as mask_util
import torch
from matplotlib import lines, patches
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from scipy import ndimage

from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from ._generic_mask import GenericMask
from .colormap import random_color

__all__ = ["ColorMode", "VisImage", "Visualizer"]

_SMALL_OBJECT_AREA_THRESH, _LARGE_MASK_AREA_THRESH = 1000, 120000
_OFF_WHITE, _RED = (1.0, 1.0, 240.0 / 255), (1.0, 0, 0)
_KEYPOINT_THRESHOLD = 0.05


@unique
class ColorMode(Enum):
    """How instances are coloured."""

    IMAGE = 0  # every instance its own colour
    SEGMENTATION = 1  # instances of a class share the metadata's colour, slightly varied
    IMAGE_BW = 2  # as IMAGE, with the image grey where no mask is


class VisImage:
    """An image (H, W, 3) RGB 0..255 on a canvas of `scale` times its size; draw on ``ax``."""

    def __init__(self, img, scale=1.0):
        self.img, self.scale = img, scale
        self.height, self.width = img.shape[:2]
        self.fig = Figure(frameon=False)
        self.dpi = self.fig.get_dpi()
        # matplotlib truncates to pixels: a little more keeps the last one
        size = [(side * scale + 1e-2) / self.dpi for side in (self.width, self.height)]
        self.fig.set_size_inches(*size)
        self.canvas = FigureCanvasAgg(self.fig)
        self.ax = self.fig.add_axes([0.0, 0.0, 1.0, 1.0])
        self.ax.axis("off")
        self.reset_image(img)

    def reset_image(self, img):
        """Show another image of the same size below what is drawn next."""
        extent = (0, self.width, self.height, 0)
        self.ax.imshow(img.astype("uint8"), extent=extent, interpolation="nearest")

    def save(self, filepath):
        self.fig.savefig(filepath)

    def get_image(self):
        """(H, W, 3) uint8 RGB, `scale` times the image's size."""
        buffer, (width, height) = self.canvas.print_to_buffer()
        return np.frombuffer(buffer, dtype="uint8").reshape(height, width, 4)[..., :3].copy()


class _PanopticPrediction:
    """A panoptic map and its segments, largest first."""

    def __init__(self, panoptic_seg, segments_info, metadata=None):
        ids, counts = torch.unique(panoptic_seg, return_counts=True)
        if segments_info is None:
            things, divisor = metadata.thing_dataset_id_to_contiguous_id, metadata.label_divisor
            segments_info = [
                {"id": i, "category_id": i // divisor, "isthing": i // divisor in things.values()}
                for i in ids[ids != -1].tolist()
            ]
        order = np.argsort(-counts.numpy())
        areas = dict(zip(ids[order].tolist(), counts[order].tolist(), strict=True))
        self._seg, self._areas = panoptic_seg, areas
        self._sinfo = {s["id"]: s | {"area": float(areas.get(s["id"], 0))} for s in segments_info}

    def non_empty_mask(self):
        """(H, W) mask of what belongs to a segment."""
        empty = [i for i in self._areas if i not in self._sinfo]
        assert len(empty) <= 1, ">1 ids corresponds to no labels. This is currently not supported"
        return (self._seg != empty[0]).numpy() if empty else np.zeros(self._seg.shape, np.uint8)

    def _masks(self, things: bool):
        """Pairs of mask (H, W) and segment, for things or stuff."""
        for segment in [self._sinfo[i] for i in self._areas if i in self._sinfo]:
            if bool(segment["isthing"]) == things:
                yield (self._seg == segment["id"]).numpy(), segment

    semantic_masks = partialmethod(_masks, things=False)
    instance_masks = partialmethod(_masks, things=True)


def _create_text_labels(classes, scores, class_names, is_crowd=None):
    """Labels such as "cat 98%|crowd"; None if there are neither classes nor scores."""
    columns = []
    if classes is not None:
        columns.append([class_names[i] if class_names else str(i) for i in classes])
    if scores is not None:
        columns.append([f"{score * 100:.0f}%" for score in scores])
    if not columns:
        return None
    crowds = repeat(False) if is_crowd is None else is_crowd
    rows = zip(zip(*columns, strict=False), crowds, strict=False)
    return [" ".join(row) + "|crowd" * bool(crowd) for row, crowd in rows]


def _drawn_box(annotation: dict):
    """XYXY, or as it is where it is rotated."""
    bbox, mode = annotation["bbox"], annotation["bbox_mode"]
    return BoxMode.convert(bbox, mode, BoxMode.XYXY_ABS) if len(bbox) == 4 else bbox


def _read_pixels(path: str) -> np.ndarray:
    with PathManager.open(path, "rb") as file:
        return np.asarray(Image.open(file))


def _rgb(color):
    """RGB in 0..1 of a colour by matplotlib's rules; None: random."""
    return mplc.to_rgb(random_color(rgb=True, maximum=1) if color is None else color)


class Visualizer:
    """Draws on one image; every ``draw_*`` method returns the `VisImage`.

    The high-level methods (``draw_instance_predictions``, ``draw_sem_seg``,
    ``draw_panoptic_seg``, ``draw_dataset_dict``, ``overlay_instances``) choose colours, places and
    sizes by themselves; the others draw one thing each. Sizes are in pixels of the image.
    """

    def __init__(self, img_rgb, metadata=None, scale=1.0, instance_mode=ColorMode.IMAGE):
        """Start from an image (H, W, 3) RGB in 0..255; `metadata` names classes and colours."""
        self.img = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)
        self.metadata = MetadataCatalog.get("__nonexist__") if metadata is None else metadata
        self.output = VisImage(self.img, scale=scale)
        self.cpu_device = torch.device("cpu")
        self._side = np.sqrt(self.output.height * self.output.width)
        self._default_font_size = max(self._side // 90, 10 // scale)  # smaller text can't be read
        self._instance_mode = instance_mode
        self.keypoint_threshold = _KEYPOINT_THRESHOLD

    def draw_instance_predictions(self, predictions):
        """Draw what `predictions` have of boxes, masks, classes, scores, keypoints (on the CPU)."""
        field = predictions.get_fields().get
        shapes = {name: field(f"pred_{name}") for name in ("boxes", "masks", "keypoints")}
        masks, classes = shapes["masks"], field("pred_classes")
        classes = None if classes is None else classes.tolist()
        names = self.metadata.get("thing_classes")
        labels = _create_text_labels(classes, field("scores"), names)
        colors = self._class_colors(classes)
        alpha = 0.5 if colors is None else 0.8
        if self._instance_mode == ColorMode.IMAGE_BW:
            covered = None if masks is None else (masks.any(dim=0) > 0).numpy()
            self.output.reset_image(self._create_grayscale_image(covered))
            alpha = 0.3
        return self.overlay_instances(**shapes, labels=labels, assigned_colors=colors, alpha=alpha)

    def draw_sem_seg(self, sem_seg, area_threshold=None, alpha=0.8):
        """Draw a label map (H, W); labels beyond the metadata's ``stuff_classes`` are left out."""
        sem_seg = np.asarray(sem_seg)
        labels, areas = np.unique(sem_seg, return_counts=True)
        for label in labels[np.argsort(-areas)].tolist():
            if label < len(self.metadata.stuff_classes):
                self._draw_stuff(sem_seg == label, label, area_threshold, alpha, _OFF_WHITE)
        return self.output

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
        masks, segments = [mask for mask, _ in instances], [segment for _, segment in instances]
        categories = [s["category_id"] for s in segments]
        scores = [s["score"] for s in segments] if all("score" in s for s in segments) else None
        crowds = [s.get("iscrowd", 0) for s in segments]
        names = self.metadata.get("thing_classes")
        labels = _create_text_labels(categories, scores, names, crowds)
        colors = self._thing_colors(categories) if hasattr(self.metadata, "thing_colors") else None
        return self.overlay_instances(
            masks=masks, labels=labels, assigned_colors=colors, alpha=alpha
        )

    draw_panoptic_seg_predictions = draw_panoptic_seg

    def draw_dataset_dict(self, dic):
        """Draw the annotations of a data set dict: instances, semantic and panoptic labels."""
        if annotations := dic.get("annotations"):
            self._draw_annotations(annotations)
        sem_seg, pan_seg = dic.get("sem_seg"), dic.get("pan_seg")
        if sem_seg is None and "sem_seg_file_name" in dic:
            sem_seg = _read_pixels(dic["sem_seg_file_name"]).astype("uint8")
        if sem_seg is not None:
            self.draw_sem_seg(sem_seg, area_threshold=0, alpha=0.5)
        if pan_seg is None and "pan_seg_file_name" in dic:
            pan_seg = _read_pixels(dic["pan_seg_file_name"]).astype(int) @ (1, 256, 65536)
        if pan_seg is not None:
            pan_seg = torch.as_tensor(pan_seg)
            self.draw_panoptic_seg(pan_seg, dic["segments_info"], area_threshold=0, alpha=0.5)
        return self.output

    def _draw_annotations(self, annotations):
        shapes = {"boxes": [_drawn_box(a) for a in annotations]}
        if "segmentation" in annotations[0]:
            shapes["masks"] = [a["segmentation"] for a in annotations]
        if "keypoints" in annotations[0]:
            points = np.array([a["keypoints"] for a in annotations])
            shapes["keypoints"] = points.reshape(len(annotations), -1, 3)
        classes, names = [a["category_id"] for a in annotations], self.metadata.get("thing_classes")
        labels = _create_text_labels(classes, None, names, [a.get("iscrowd") for a in annotations])
        colors = self._class_colors(classes)
        self.overlay_instances(**shapes, labels=labels, assigned_colors=colors)

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
        colors = [_rgb(None) for _ in range(count)] if assigned_colors is None else assigned_colors
        if count == 0:
            return self.output
        areas = np.zeros(count)
        if boxes is not None:
            if boxes.shape[1] == 5:
                return self.overlay_rotated_instances(boxes, labels, colors)
            areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        elif masks is not None:
            areas = np.array([m.area() for m in masks], dtype=float)
        for i in np.argsort(-areas).tolist():
            box, mask, label = (None if x is None else x[i] for x in (boxes, masks, labels))
            if box is not None:
                self.draw_box(box, edge_color=colors[i])
            for polygon in () if mask is None else mask.polygons:
                self.draw_polygon(polygon.reshape(-1, 2), colors[i], alpha=alpha)
            if label is not None:
                self._label_instance(label, colors[i], box, mask)
        for points in () if keypoints is None else keypoints:
            self.draw_and_connect_keypoints(points)
        return self.output

    def overlay_rotated_instances(self, boxes=None, labels=None, assigned_colors=None):
        """Draw rotated boxes (N, 5) of cx, cy, w, h, degrees counter-clockwise."""
        boxes = np.asarray(boxes).reshape(-1, 5)
        colors = [_rgb(None) for _ in boxes] if assigned_colors is None else assigned_colors
        for i in np.argsort(-(boxes[:, 2] * boxes[:, 3])).tolist():
            label = None if labels is None else labels[i]
            self.draw_rotated_box_with_label(boxes[i], edge_color=colors[i], label=label)
        return self.output

    def draw_and_connect_keypoints(self, keypoints):
        """Draw keypoints (K, 3) of x, y, probability, joined by the metadata's rules.

        A line from the nose to between the shoulders, and on to between the hips, is added where
        the metadata's ``keypoint_names`` have these.
        """
        sure = {i: (x, y) for i, (x, y, p) in enumerate(keypoints) if p > self.keypoint_threshold}
        for point in sure.values():
            self.draw_circle(point, color=_RED)
        names = self.metadata.get("keypoint_names")
        visible = {names[i]: point for i, point in sure.items()} if names else {}

        def middle(name):
            sides = [visible.get(f"{side}_{name}") for side in ("left", "right")]
            return None if None in sides else tuple(np.mean(sides, axis=0))

        shoulder = middle("shoulder")
        rules = self.metadata.get("keypoint_connection_rules") or ()
        joints = [(visible.get(a), visible.get(b), [x / 255.0 for x in rgb]) for a, b, rgb in rules]
        joints += [(visible.get("nose"), shoulder, _RED), (middle("hip"), shoulder, _RED)]
        for start, end, color in joints:
            if start is not None and end is not None:
                self.draw_line(*zip(start, end, strict=True), color=color)
        return self.output

    def draw_text(
        self,
        text,
        position,
        *,
        font_size=None,
        color="g",
        horizontal_alignment="center",
        rotation=0,
    ):
        """Write below `position` (x, y), in a light tone of `color` on a dark ground."""
        color = np.maximum(list(mplc.to_rgb(color)), 0.2)
        color[np.argmax(color)] = max(0.8, np.max(color))
        size = (font_size or self._default_font_size) * self.output.scale
        style = {"size": size, "family": "sans-serif", "color": color, "rotation": rotation}
        style |= {"verticalalignment": "top", "horizontalalignment": horizontal_alignment}
        ground = {"facecolor": "black", "alpha": 0.8, "pad": 0.7, "edgecolor": "none"}
        self.output.ax.text(*position, text, **style, bbox=ground, zorder=10)
        return self.output

    def draw_box(self, box_coord, alpha=0.5, edge_color="g", line_style="-"):
        """Draw the outline of a box x0, y0, x1, y1."""
        x0, y0, x1, y1 = box_coord
        width = max(self._default_font_size / 4, 1) * self.output.scale
        style = {"edgecolor": edge_color, "alpha": alpha, "linestyle": line_style, "fill": False}
        return self._add(patches.Rectangle((x0, y0), x1 - x0, y1 - y0, linewidth=width, **style))

    def draw_rotated_box_with_label(
        self, rotated_box, alpha=0.5, edge_color="g", line_style="-", label=None
    ):
        """Draw cx, cy, w, h, degrees counter-clockwise; the top edge is dashed."""
        x, y, width, height, angle = rotated_box
        small = width * height < _SMALL_OBJECT_AREA_THRESH * self.output.scale
        linewidth = self._default_font_size / (6 if small else 3)
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        half = (
            np.array([[-width, height], [-width, -height], [width, -height], [width, height]]) / 2
        )
        corners = half @ [[cos, -sin], [sin, cos]] + (x, y)
        for k, edge in enumerate(pairwise([*corners, corners[0]])):
            style = "--" if k == 1 else line_style
            self.draw_line(*np.transpose(edge), edge_color, linestyle=style, linewidth=linewidth)
        if label is not None:
            color, size = self._lighter(edge_color), self._font_size(height)
            self.draw_text(label, corners[1], color=color, font_size=size, rotation=angle)
        return self.output

    def draw_circle(self, circle_coord, color, radius=3):
        """Draw a full circle around (x, y)."""
        return self._add(patches.Circle(circle_coord, radius=radius, fill=True, color=color))

    def draw_line(self, x_data, y_data, color, linestyle="-", linewidth=None):
        """Draw a line through points of the given x and y."""
        width = self._default_font_size / 3 if linewidth is None else linewidth
        style = {"linewidth": max(width, 1) * self.output.scale, "linestyle": linestyle}
        return self._add(lines.Line2D(x_data, y_data, color=color, **style))

    def draw_binary_mask(
        self, binary_mask, color=None, *, edge_color=None, text=None, alpha=0.5, area_threshold=10
    ):
        """Draw a mask (H, W); pieces under `area_threshold` pixels are left out.

        Args:
            binary_mask: integers or booleans.
            color: None: random.
            edge_color: None: that of the area, darker if this is nearly opaque.
            text: written into large pieces.
            alpha: opacity.
            area_threshold: in pixels; None: 0.
        """
        color, binary_mask = _rgb(color), binary_mask.astype("uint8")
        mask = GenericMask(binary_mask, self.output.height, self.output.width)
        drawn = mask.has_holes
        if drawn:  # polygons would fill the holes
            self._overlay(color, (mask.mask == 1) * alpha)
        for polygon in () if drawn else mask.polygons:
            area = mask_util.area(mask_util.frPyObjects([polygon], *binary_mask.shape))[0]
            if area >= (area_threshold or 0):
                drawn = True
                self.draw_polygon(polygon.reshape(-1, 2), color, edge_color, alpha)
        if text is not None and drawn:
            self._draw_text_in_mask(binary_mask, text, self._lighter(color))
        return self.output

    def draw_soft_mask(self, soft_mask, color=None, *, text=None, alpha=0.5):
        """Draw a mask (H, W) of 0..1 that scales the opacity."""
        color = _rgb(color)
        self._overlay(color, soft_mask * alpha)
        if text is not None:
            self._draw_text_in_mask((soft_mask > 0.5).astype("uint8"), text, self._lighter(color))
        return self.output

    def draw_polygon(self, segment, color, edge_color=None, alpha=0.5):
        """Draw a filled polygon of points (n, 2)."""
        if edge_color is None:
            edge_color = self._change_color_brightness(color, -0.7) if alpha > 0.8 else color
        style = {"facecolor": (*mplc.to_rgb(color), alpha), "edgecolor": mplc.to_rgb(edge_color)}
        width = max(self._default_font_size // 15 * self.output.scale, 1)
        return self._add(patches.Polygon(segment, fill=True, linewidth=width, **style))

    def get_output(self):
        return self.output

    def _add(self, artist):
        # Not add_patch: it measures the outline point by point, to adapt axes that are fixed here.
        self.output.ax.add_artist(artist)
        return self.output

    def _overlay(self, color, opacity):
        rgba = np.dstack([np.broadcast_to(color, (*opacity.shape, 3)), opacity]).astype("float32")
        self.output.ax.imshow(rgba, extent=(0, self.output.width, self.output.height, 0))

    def _draw_stuff(self, mask, category, area_threshold, alpha, edge_color=None):
        try:
            color = [x / 255 for x in self.metadata.stuff_colors[category]]
        except (AttributeError, IndexError):
            color = None
        style = {"edge_color": edge_color, "alpha": alpha, "area_threshold": area_threshold}
        self.draw_binary_mask(mask, color, text=self.metadata.stuff_classes[category], **style)

    def _create_grayscale_image(self, mask=None):
        """The image (H, W, 3) in grey, coloured only where `mask` is."""
        grey = np.repeat(self.img.astype("f4").mean(axis=2, keepdims=True), 3, axis=2)
        if mask is not None:
            grey[mask] = self.img[mask]
        return grey

    def _thing_colors(self, categories):
        return [self._jitter([x / 255 for x in self.metadata.thing_colors[c]]) for c in categories]

    def _class_colors(self, categories):
        """The metadata's colours where this mode asks for them, else None."""
        by_class = self._instance_mode == ColorMode.SEGMENTATION
        known = self.metadata.get("thing_colors") and categories is not None
        return self._thing_colors(categories) if by_class and known else None

    def _change_color_brightness(self, color, brightness_factor):
        """Lighten (factor up to 1) or darken (down to -1) by a fraction of the lightness."""
        assert -1.0 <= brightness_factor <= 1.0
        hue, lightness, saturation = colorsys.rgb_to_hls(*mplc.to_rgb(color))
        lightness = min(max(lightness * (1 + brightness_factor), 0.0), 1.0)
        return tuple(np.clip(colorsys.hls_to_rgb(hue, lightness, saturation), 0.0, 1.0))

    def _lighter(self, color):
        return self._change_color_brightness(color, brightness_factor=0.7)

    def _jitter(self, color):
        """A random colour near `color`, both RGB in 0..1."""
        offset = np.random.rand(3)
        offset = offset / np.linalg.norm(offset) * 0.5
        return tuple(np.clip(offset + mplc.to_rgb(color), 0, 1))

    def _font_size(self, object_height: float) -> float:
        ratio = object_height / self._side
        return np.clip((ratio - 0.02) / 0.08 + 1, 1.2, 2) * 0.5 * self._default_font_size

    def _label_instance(self, label, color, box, mask):
        """Write at the box's corner, else inside the mask, beside both if they are small."""
        if box is not None:
            x0, y0, x1, y1 = box
            position, alignment = (x0, y0), "left"
        elif mask is not None and len(mask.polygons):
            x0, y0, x1, y1 = mask.bbox()
            position, alignment = np.median(mask.mask.nonzero(), axis=1)[::-1], "center"
        else:
            return
        scale, height = self.output.scale, y1 - y0
        if height * (x1 - x0) < _SMALL_OBJECT_AREA_THRESH * scale or height < 40 * scale:
            position = (x1, y0) if y1 >= self.output.height - 5 else (x0, y1)
        style = {"color": self._lighter(color), "horizontal_alignment": alignment}
        self.draw_text(label, position, font_size=self._font_size(height), **style)

    def _draw_text_in_mask(self, binary_mask, text, color):
        """Write at the median of the largest piece of a mask, and of other very large ones."""
        pieces, count = ndimage.label(binary_mask, np.ones((3, 3)))
        areas = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
        for piece, area in enumerate(areas, start=1):
            if piece == areas.argmax() + 1 or area > _LARGE_MASK_AREA_THRESH:
                center = np.median((pieces == piece).nonzero(), axis=1)[::-1]
                self.draw_text(text, center, color=color)

    def _convert_boxes(self, boxes):
        boxes = getattr(boxes, "tensor", boxes)
        return boxes.detach().numpy() if isinstance(boxes, torch.Tensor) else np.asarray(boxes)

    _convert_keypoints = _convert_boxes

    def _convert_masks(self, masks_or_polygons):
        masks = getattr(masks_or_polygons, "polygons", masks_or_polygons)
        masks = masks if isinstance(masks, (list, tuple)) else self._convert_boxes(masks)
        size = self.output.height, self.output.width
        return [m if isinstance(m, GenericMask) else GenericMask(m, *size) for m in masks]
