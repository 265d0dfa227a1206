"""Pictures of predictions beside the ground truth."""

import logging
import os
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageDraw, ImageFont

from lvt_d2.evaluation.confusion import best_classes
from lvt_d2.evaluation.ground_truth import PanopticGroundTruth
from lvt_d2.evaluation.semantic_png import class_colors
from lvt_d2.evaluation.semantic_truth import SemanticGroundTruth

logger = logging.getLogger(__name__)

# All in pixels of the picture.
_LEAST_SIDE = 600  # of a panel: the visualizer's text is some 10 pixels high whatever the image
_TITLE_HEIGHT = 30
_TITLE_SIZE = 17
_GAP = 8
_PAPER, _INK = (255, 255, 255), (0, 0, 0)
_LEGEND_SIZE = 15
_LEGEND_ROW = 24
_SWATCH = 16
_MOST_IN_LEGEND = 30
_ALPHA = 0.6  # of class colours over the photograph


class _Pictures(DatasetEvaluator):
    """Draws the first images; subclasses implement ``_draw``. It gives no results.

    Args:
        output_dir: folder of the pictures, PNGs named like the images; it is made.
        max_pictures: how many, over all processes.
    """

    def __init__(self, output_dir: str, max_pictures: int):
        self._output_dir = output_dir
        # Processes get neighbouring images of equal number.
        rank, world = comm.get_rank(), comm.get_world_size()
        self._limit = max_pictures // world + (rank < max_pictures % world)
        self.reset()

    def reset(self) -> None:
        """Start to count again."""
        self._count = 0

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Draw a batch, or nothing where enough is drawn.

        Args:
            inputs: dataset dicts.
            outputs: of the model.
        """
        for record, output in zip(inputs, outputs, strict=True):
            if self._count >= self._limit:
                return
            self._count += 1
            picture = self._draw(record, output)
            stem = os.path.splitext(os.path.basename(record["file_name"]))[0]
            PathManager.mkdirs(self._output_dir)
            with PathManager.open(os.path.join(self._output_dir, f"{stem}.png"), "wb") as file:
                picture.save(file, format="PNG", compress_level=1)  # four times as fast

    def _draw(self, record: dict, output: dict) -> Image.Image:
        """Picture of one input dict and its output."""
        raise NotImplementedError


class PredictionPictures(_Pictures):
    """Panoptic segments: photograph, ground truth and prediction side by side.

    Segments carry the names of their classes, predicted things their scores, too. Small images
    are enlarged so that the labels can be read. Outputs have ``"panoptic_seg"``, as
    `PanopticEvaluator` takes them.

    Args:
        dataset_name: registered, with Detectron2's metadata of ``*_panoptic_separated`` sets.
        output_dir: folder of the pictures, PNGs named like the images; it is made.
        max_pictures: how many, over all processes.
    """

    def __init__(self, dataset_name: str, output_dir: str, max_pictures: int = 16):
        self._truth = PanopticGroundTruth(dataset_name)
        super().__init__(output_dir, max_pictures)

    def reset(self) -> None:
        """Start to count again."""
        self._truth.reset()
        super().reset()

    def _draw(self, record: dict, output: dict) -> Image.Image:
        ids, segments = output["panoptic_seg"]
        image = detection_utils.read_image(record["file_name"], format="RGB")
        name = os.path.basename(record["file_name"])
        panels = [(name, _enlarge(image, Image.Resampling.BICUBIC))]
        if self._truth.available:
            gt_ids, gt_segments = self._truth.read(record)
            panels.append(("ground truth", self._overlay(image, gt_ids, gt_segments)))
        if segments is not None:
            segments = [dict(segment) for segment in segments]
        panels.append(("prediction", self._overlay(image, ids.cpu().numpy(), segments)))
        return _side_by_side(panels)

    def _overlay(
        self, image: np.ndarray, ids: np.ndarray, segments: list[dict] | None
    ) -> np.ndarray:
        # Detectron2's needs OpenCV, which configs that only name this class must load without.
        from detectron2.utils.visualizer import ColorMode, Visualizer

        image = _enlarge(image, Image.Resampling.BICUBIC)
        ids = _enlarge(ids.astype(np.int32), Image.Resampling.NEAREST)
        visualizer = Visualizer(image, self._truth.metadata, instance_mode=ColorMode.SEGMENTATION)
        drawn = visualizer.draw_panoptic_seg(torch.from_numpy(ids), segments, alpha=0.5)
        return drawn.get_image()


class SemanticPictures(_Pictures):
    """Label maps: photograph, ground truth and prediction side by side, over a legend.

    Classes have the set's ``stuff_colors``; void stays as it is in the photograph. The legend
    names the classes of the picture by their size, 30 at most. Outputs have ``"sem_seg"``, as
    `SemanticEvaluator` takes them.

    Args:
        dataset_name: registered; its metadata has ``stuff_classes``.
        output_dir: folder of the pictures, PNGs named like the images; it is made.
        max_pictures: how many, over all processes.
    """

    def __init__(self, dataset_name: str, output_dir: str, max_pictures: int = 16):
        self._truth = SemanticGroundTruth(dataset_name)
        self._names = self._truth.class_names
        self._colors = class_colors(self._truth.metadata, len(self._names))
        super().__init__(output_dir, max_pictures)

    def reset(self) -> None:
        """Start to count again."""
        self._truth.reset()
        super().reset()

    def _draw(self, record: dict, output: dict) -> Image.Image:
        image = detection_utils.read_image(record["file_name"], format="RGB")
        scores = output["sem_seg"]
        predicted = best_classes(scores) if scores.dim() == 3 else scores
        maps = [("prediction", predicted.cpu().numpy())]
        if self._truth.available:
            maps.insert(0, ("ground truth", self._truth.read(record)))
        photograph = _enlarge(image, Image.Resampling.BICUBIC)
        panels = [(os.path.basename(record["file_name"]), photograph)]
        panels += [(title, self._overlay(photograph, labels)) for title, labels in maps]
        counted = np.concatenate([labels.ravel() for _, labels in maps])
        row = _side_by_side(panels)
        return _stacked(row, self._legend(np.bincount(counted), row.width))

    def _overlay(self, photograph: np.ndarray, labels: np.ndarray) -> np.ndarray:
        labels = _enlarge(labels.astype(np.int32), Image.Resampling.NEAREST)
        is_class = labels < len(self._names)  # the others are void
        colors = self._colors[np.where(is_class, labels, 0)]
        mixed = (1 - _ALPHA) * photograph + _ALPHA * colors
        return np.where(is_class[..., None], mixed.round(), photograph).astype(np.uint8)

    def _legend(self, pixels: np.ndarray, width: int) -> Image.Image:
        """Colours and names of the classes that have ``pixels``, the largest first."""
        pixels = pixels[: len(self._names)]
        order = [k for k in np.argsort(-pixels, kind="stable").tolist() if pixels[k]]
        left_out = len(order) - _MOST_IN_LEGEND
        entries = [(self._names[k], tuple(self._colors[k].tolist())) for k in order]
        entries = entries[:_MOST_IN_LEGEND]
        if left_out > 0:
            entries.append((f"and {left_out} more", None))
        font = _font(_LEGEND_SIZE)
        cell = max((font.getlength(name) for name, _ in entries), default=0) + 2 * _SWATCH + _GAP
        columns = max(1, int(width // cell))
        rows = -(-len(entries) // columns)
        legend = Image.new("RGB", (width, rows * _LEGEND_ROW + _GAP), color=_PAPER)
        draw = ImageDraw.Draw(legend)
        for place, (name, color) in enumerate(entries):
            left = int(place % columns * cell) + _GAP // 2
            top = place // columns * _LEGEND_ROW + _GAP // 2
            if color is not None:
                draw.rectangle((left, top, left + _SWATCH, top + _SWATCH), fill=color, outline=_INK)
            draw.text((left + _SWATCH + _GAP, top - 1), name, fill=_INK, font=font)
        return legend


def _stacked(upper: Image.Image, lower: Image.Image) -> Image.Image:
    """Two pictures of equal width, one over the other."""
    both = Image.new("RGB", (upper.width, upper.height + lower.height), color=_PAPER)
    both.paste(upper, (0, 0))
    both.paste(lower, (0, upper.height))
    return both


def _enlarge(pixels: np.ndarray, resampling: Image.Resampling) -> np.ndarray:
    """Enlarge (H, W[, 3]) by a whole factor until the shorter side has `_LEAST_SIDE` or nearly."""
    factor = max(1, round(_LEAST_SIDE / min(pixels.shape[:2])))
    if factor == 1:
        return pixels
    size = (pixels.shape[1] * factor, pixels.shape[0] * factor)
    return np.array(Image.fromarray(pixels).resize(size, resampling))


def _side_by_side(panels: list[tuple[str, np.ndarray]]) -> Image.Image:
    """Panels of equal size in a row, each under its title."""
    height, width = panels[0][1].shape[:2]
    row = Image.new(
        "RGB", (len(panels) * (width + _GAP) - _GAP, height + _TITLE_HEIGHT), color=_PAPER
    )
    draw = ImageDraw.Draw(row)
    for place, (title, pixels) in enumerate(panels):
        left = place * (width + _GAP)
        draw.text((left + 4, 4), title, fill=_INK, font=_font(_TITLE_SIZE))
        row.paste(Image.fromarray(np.ascontiguousarray(pixels)), (left, _TITLE_HEIGHT))
    return row


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib; Pillow's own has one tiny size in older releases."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)
