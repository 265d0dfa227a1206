"""IoU and accuracy of semantic maps, and the maps as PNGs."""

import json
import logging
import math
import os
from collections import OrderedDict
from itertools import chain

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from tabulate import tabulate
from torch import Tensor

from lvt_d2.errors import ConfigError
from lvt_d2.evaluation.background import Background
from lvt_d2.evaluation.confusion import Confusion, best_classes
from lvt_d2.evaluation.semantic_png import (
    MAX_CLASSES,
    class_colors,
    png_name,
    write_palette_png,
    write_submission_png,
    write_zip,
)
from lvt_d2.evaluation.semantic_truth import SemanticGroundTruth

logger = logging.getLogger(__name__)

_MAX_WAITING = 16  # label maps of one byte a pixel


class SemanticEvaluator(DatasetEvaluator):
    """MIoU, fwIoU, mACC, pACC and those of each class in percent, as `SemSegEvaluator` has them.

    MIoU, mACC and pACC are the mIoU, mAcc and aAcc of the official evaluation. True labels come
    from a file per image (void ignored), or from panoptic PNGs: 0 on things, 1.. on stuff.

    The best classes are found on the device of the scores, in strips; true labels are read and
    counted in a thread of its own while the model predicts the next images. Beside the scores
    that it is given, an image takes about 12 bytes a pixel for a moment (4 MB at 512x683), and
    one byte a pixel while it waits for the thread, which 16 images do at most.

    A set without labels gives no numbers, but with ``output_dir`` a zip for ADE20K's server.

    Args:
        dataset_name: registered; its metadata has ``stuff_classes``, and for panoptic sets
            Detectron2's keys of ``*_panoptic_separated`` sets.
        output_dir: where ``sem_seg_evaluation.json`` is written: the results, and the confusion
            matrix (pixels; rows predicted, columns true). None: it is not.
        distributed: gather from all processes; else evaluate this process' images only.
        save_predictions: write ``output_dir/sem_seg/*.png``: palette PNGs, whose values are the
            labels and whose colours are the set's ``stuff_colors``.
        submission: write ``output_dir/submission.zip`` with label + 1 of each image. None: where
            the set has no labels.
        zero_if_only_predicted: what a class counts in mIoU that is predicted but has no true
            pixel: True for an IoU of 0, as in the official evaluation; False for nothing, as
            in Detectron2's. They differ only on sets where a class has no pixel at all.

    Raises:
        ConfigError: PNGs are asked for, and there is no ``output_dir`` or too many classes.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        distributed: bool = True,
        save_predictions: bool = False,
        submission: bool | None = None,
        zero_if_only_predicted: bool = False,
    ):
        self._truth = SemanticGroundTruth(dataset_name)
        self._class_names = self._truth.class_names
        self._output_dir = output_dir
        self._distributed = distributed
        self._save_predictions = save_predictions
        self._submission = submission
        self._zero_if_only_predicted = zero_if_only_predicted
        self._background = Background("semantic-evaluation", _MAX_WAITING)
        self._check_options()
        self.reset()

    def _check_options(self) -> None:
        if not (self._save_predictions or self._submission):
            return
        if self._output_dir is None:
            raise ConfigError(
                "SemanticEvaluator is asked for save_predictions or submission, but has no "
                "output_dir to write to; set dataloader.evaluator.output_dir"
            )
        self._check_count()

    def _check_count(self) -> None:
        if len(self._class_names) > MAX_CLASSES:
            raise ConfigError(
                f"{self._truth.dataset_name!r} has {len(self._class_names)} classes, but the PNGs "
                f"of save_predictions and submission hold {MAX_CLASSES} at most"
            )

    def reset(self) -> None:
        """Forget all images."""
        self._background.cancel()
        self._truth.reset()
        self._confusion = Confusion(len(self._class_names))
        self._submitted: list[str] = []

    @property
    def _writes_submission(self) -> bool:
        if self._submission is None:
            return self._output_dir is not None and not self._truth.available
        return self._submission

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take a batch.

        Errors of the true labels, which are read meanwhile, are raised by a later call or by
        `evaluate`.

        Args:
            inputs: dataset dicts.
            outputs: dicts with ``"sem_seg"`` at the image's own size: (K, H, W) scores, or (H, W)
                labels of an integer type.

        Raises:
            DatasetError: the ground truth of an image is missing or broken.
            ValueError: a prediction has another number of classes or another size.
        """
        for record, output in zip(inputs, outputs, strict=True):
            labels = self._labels(record, output["sem_seg"])
            self._background.submit(self._take, record, labels)

    def _labels(self, record: dict, predicted: Tensor) -> Tensor:
        """Predicted labels (H, W)."""
        count = len(self._class_names)
        size = (record.get("height"), record.get("width"))
        if predicted.dim() == 3 and len(predicted) == count:
            labels, is_map = best_classes(predicted), True
        else:
            labels = predicted
            is_map = predicted.dim() == 2 and not predicted.is_floating_point()
        if not is_map or (None not in size and tuple(labels.shape) != size):
            expected = "image's own size" if None in size else f"image's own size {size}"
            raise ValueError(
                f"sem_seg of {record.get('file_name')} is {tuple(predicted.shape)} of "
                f"{predicted.dtype}; expected ({count}, height, width) scores for the {count} "
                f"classes of {self._truth.dataset_name!r}, or (height, width) integer labels, at "
                f"the {expected}"
            )
        return labels

    def _take(self, record: dict, labels: Tensor) -> None:
        """Count and write one image; runs in the background."""
        if self._truth.available:
            true = self._truth.read(record)
            if true.shape != labels.shape:
                raise ValueError(
                    f"sem_seg of {record.get('file_name')} is {tuple(labels.shape)}, but its true "
                    f"labels are {true.shape}; predict at the image's own size (inputs need its "
                    "height and width)"
                )
            try:
                self._confusion.update(labels, true)
            except ValueError as error:
                raise ValueError(f"sem_seg of {record.get('file_name')}: {error}") from error
        if self._save_predictions:
            colors = class_colors(self._truth.metadata, len(self._class_names))
            write_palette_png(self._path("sem_seg", png_name(record)), labels, colors)
        if self._writes_submission:
            self._check_count()
            write_submission_png(self._path("submission", png_name(record)), labels)
            self._submitted.append(png_name(record))

    def _path(self, folder: str, name: str) -> str:
        folder = os.path.join(self._output_dir, folder)
        PathManager.mkdirs(folder)
        return os.path.join(folder, name)

    def evaluate(self) -> OrderedDict | None:
        """Sum over all processes and log the table.

        Returns:
            ``{"sem_seg": {"mIoU", "fwIoU", "IoU-<class>", "mACC", "pACC", "ACC-<class>"}}`` in
            percent, NaN for classes that don't occur; empty for sets without labels. None on
            processes other than the main one.

        Raises:
            DatasetError: the ground truth of an image is missing or broken.
            ValueError: a prediction doesn't fit its image or has labels beyond the classes.
        """
        self._background.close()
        confusion, submitted = self._confusion.matrix(), self._submitted
        if self._distributed:
            comm.synchronize()
            parts = comm.gather((confusion, submitted), dst=0)
            if not comm.is_main_process():
                return None
            confusion = sum(part for part, _ in parts)
            submitted = list(chain.from_iterable(names for _, names in parts))
        if self._writes_submission:
            self._zip(submitted)
        if not self._truth.available:
            logger.info("%r has no labels: IoU is not computed", self._truth.dataset_name)
            return OrderedDict()
        overall, iou, accuracy = _metrics(confusion, self._zero_if_only_predicted)
        logger.info("Semantic segmentation, by class:\n%s", self._table(confusion, iou, accuracy))
        logger.info("Semantic segmentation:\n%s", _overall_table(overall))
        names = self._class_names
        results = {
            "mIoU": overall["mIoU"],
            "fwIoU": overall["fwIoU"],
            **{f"IoU-{name}": float(v) for name, v in zip(names, iou, strict=True)},
            "mACC": overall["mACC"],
            "pACC": overall["pACC"],
            **{f"ACC-{name}": float(v) for name, v in zip(names, accuracy, strict=True)},
        }
        if self._output_dir is not None:
            self._write(results, confusion)
        return OrderedDict(sem_seg=results)

    def _table(self, confusion: np.ndarray, iou: np.ndarray, accuracy: np.ndarray) -> str:
        share = 100 * confusion.sum(axis=0) / max(confusion.sum(), 1)
        rows = zip(self._class_names, iou, accuracy, share, strict=True)
        return tabulate(
            [row for row in rows if not math.isnan(row[1])],
            headers=["class", "IoU", "ACC", "% of pixels"],
            tablefmt="pipe",
            floatfmt=".3f",
        )

    def _write(self, results: dict[str, float], confusion: np.ndarray) -> None:
        path = self._path("", "sem_seg_evaluation.json")
        content = {
            "sem_seg": {k: None if math.isnan(v) else v for k, v in results.items()},
            "classes": self._class_names,
            "confusion": confusion.tolist(),
        }
        with PathManager.open(path, "w") as file:
            json.dump(content, file)
        logger.info("Wrote %s", path)

    def _zip(self, names: list[str]) -> None:
        path = self._path("", "submission.zip")
        write_zip(path, os.path.join(self._output_dir, "submission"), names)
        logger.info("Wrote %s with %d label maps for ADE20K's server", path, len(names))


def _metrics(
    confusion: np.ndarray, zero_if_only_predicted: bool
) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """Overall numbers, IoU and accuracy of each class; percent, NaN where undefined."""
    correct = confusion.diagonal().astype(float)
    true = confusion.sum(axis=0).astype(float)
    union = true + confusion.sum(axis=1) - correct
    present = true > 0
    has_iou = union > 0 if zero_if_only_predicted else present
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(has_iou, 100 * correct / union, np.nan)
        accuracy = np.where(present, 100 * correct / true, np.nan)
    if not present.any():
        return dict.fromkeys(("mIoU", "fwIoU", "mACC", "pACC"), float("nan")), iou, accuracy
    overall = {
        "mIoU": iou[has_iou].mean(),
        "fwIoU": (iou[present] * true[present]).sum() / true.sum(),
        "mACC": accuracy[present].mean(),
        "pACC": 100 * correct.sum() / true.sum(),
    }
    return {name: float(value) for name, value in overall.items()}, iou, accuracy


def _overall_table(overall: dict[str, float]) -> str:
    return tabulate(
        [list(overall.values())], headers=list(overall), tablefmt="pipe", floatfmt=".3f"
    )
