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

from lvt_d2.evaluation.ground_truth import PanopticGroundTruth

logger = logging.getLogger(__name__)

# All in pixels of the picture.
_LEAST_SIDE = 600  # of a panel: the visualizer's text is some 10 pixels high whatever the image
_TITLE_HEIGHT = 30
_TITLE_SIZE = 17
_GAP = 8
_PAPER, _INK = (255, 255, 255), (0, 0, 0)


class PredictionPictures(DatasetEvaluator):
    """Draws the first images: photograph, ground truth and prediction side by side.

    Segments carry the names of their classes, predicted things their scores, too. Small images
    are enlarged so that the labels can be read. It gives no results.

    Args:
        dataset_name: registered, with Detectron2's metadata of ``*_panoptic_separated`` sets.
        output_dir: folder of the pictures, PNGs named like the images; it is made.
        max_pictures: how many, over all processes.
    """

    def __init__(self, dataset_name: str, output_dir: str, max_pictures: int = 16):
        self._truth = PanopticGroundTruth(dataset_name)
        self._output_dir = output_dir
        # Processes get neighbouring images of equal number.
        rank, world = comm.get_rank(), comm.get_world_size()
        self._limit = max_pictures // world + (rank < max_pictures % world)
        self.reset()

    def reset(self) -> None:
        """Start to count again."""
        self._truth.reset()
        self._count = 0

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Draw a batch, or nothing where enough is drawn.

        Args:
            inputs: dataset dicts.
            outputs: dicts with ``"panoptic_seg"``, as `PanopticEvaluator` takes them.
        """
        for record, output in zip(inputs, outputs, strict=True):
            if self._count >= self._limit:
                return
            self._count += 1
            picture = self._draw(record, *output["panoptic_seg"])
            stem = os.path.splitext(os.path.basename(record["file_name"]))[0]
            PathManager.mkdirs(self._output_dir)
            with PathManager.open(os.path.join(self._output_dir, f"{stem}.png"), "wb") as file:
                picture.save(file, format="PNG", compress_level=1)  # four times as fast

    def _draw(self, record: dict, ids: torch.Tensor, segments: list[dict] | None) -> Image.Image:
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
        draw.text((left + 4, 4), title, fill=_INK, font=_title_font())
        row.paste(Image.fromarray(np.ascontiguousarray(pixels)), (left, _TITLE_HEIGHT))
    return row


@cache
def _title_font() -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib; Pillow's own has one tiny size in older releases."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), _TITLE_SIZE)
