"""IoU and accuracy of semantic maps against labels derived from panoptic PNGs."""

import json
import logging
import math
import os
from collections import OrderedDict

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from tabulate import tabulate

from lvt_d2.data.panoptic_png import encode_ids, segment_codes
from lvt_d2.errors import DatasetError
from lvt_d2.evaluation.ground_truth import PanopticGroundTruth

logger = logging.getLogger(__name__)

_THINGS_LABEL = 0


class SemanticEvaluator(DatasetEvaluator):
    """MIoU, fwIoU, mACC, pACC and those of each class in percent, as `SemSegEvaluator` has them.

    The true label of a pixel is 0 on things (crowds included), 1.. on stuff; void is ignored.

    Args:
        dataset_name: registered, with Detectron2's metadata of ``*_panoptic_separated`` sets.
        output_dir: where ``sem_seg_evaluation.json`` is written: the results, and the confusion
            matrix (pixels; rows predicted, columns true). None: it is not.
        distributed: gather from all processes; else evaluate this process' images only.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None, distributed: bool = True):
        self._truth = PanopticGroundTruth(dataset_name)
        self._class_names = list(self._truth.metadata.stuff_classes)
        self._output_dir = output_dir
        self._distributed = distributed
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._truth.reset()
        self._confusion = np.zeros((len(self._class_names),) * 2, dtype=np.int64)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take a batch.

        Args:
            inputs: dataset dicts.
            outputs: dicts with ``"sem_seg"``, (K, H, W) scores at the image's own size.

        Raises:
            DatasetError: the ground truth is missing or broken.
            ValueError: the prediction has another number of classes or another size.
        """
        if not self._truth.available:
            return
        count = len(self._class_names)
        for record, output in zip(inputs, outputs, strict=True):
            scores = output["sem_seg"]
            true = self._true_labels(record)
            if scores.shape != (count, *true.shape):
                raise ValueError(
                    f"sem_seg of {record.get('file_name')} is {tuple(scores.shape)}; expected "
                    f"{(count, *true.shape)}: the {count} classes of {self._truth.dataset_name!r} "
                    "at the image's own size"
                )
            predicted = scores.argmax(dim=0).cpu().numpy()
            valid = true >= 0
            joint = predicted[valid] * count + true[valid]
            self._confusion += np.bincount(joint, minlength=count**2).reshape(count, count)

    def _true_labels(self, record: dict) -> np.ndarray:
        """(H, W) int64 labels, -1 where ignored."""
        ids, segments = self._truth.read(record)
        labels = [s["category_id"] if not s["isthing"] else _THINGS_LABEL for s in segments]
        codes = segment_codes(len(segments))
        table = np.full(codes.max(initial=0) + 1, -1)
        table[codes] = labels
        if table.max() >= len(self._class_names):
            raise DatasetError(
                f"image {record['image_id']} has the stuff class {table.max()}, but "
                f"{self._truth.dataset_name!r} has only {len(self._class_names)} stuff_classes"
            )
        encoded = encode_ids(ids, [s["id"] for s in segments])
        return table[encoded.astype(np.intp)]

    def evaluate(self) -> OrderedDict | None:
        """Sum over all processes and log the table.

        Returns:
            ``{"sem_seg": {"mIoU", "fwIoU", "IoU-<class>", "mACC", "pACC", "ACC-<class>"}}`` in
            percent, NaN for classes that don't occur; empty for sets without labels. None on
            processes other than the main one.
        """
        confusion = self._confusion
        if self._distributed:
            comm.synchronize()
            parts = comm.gather(confusion, dst=0)
            if not comm.is_main_process():
                return None
            confusion = sum(parts)
        if not self._truth.available:
            logger.info("%r has no labels: IoU is not computed", self._truth.dataset_name)
            return OrderedDict()
        overall, iou, accuracy = _metrics(confusion)
        logger.info("Semantic segmentation, by class:\n%s", self._table(iou, accuracy))
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

    def _table(self, iou: np.ndarray, accuracy: np.ndarray) -> str:
        rows = zip(self._class_names, iou, accuracy, strict=True)
        return tabulate(
            [row for row in rows if not math.isnan(row[2])],
            headers=["class", "IoU", "ACC"],
            tablefmt="pipe",
            floatfmt=".3f",
        )

    def _write(self, results: dict[str, float], confusion: np.ndarray) -> None:
        PathManager.mkdirs(self._output_dir)
        path = os.path.join(self._output_dir, "sem_seg_evaluation.json")
        content = {
            "sem_seg": {k: None if math.isnan(v) else v for k, v in results.items()},
            "classes": self._class_names,
            "confusion": confusion.tolist(),
        }
        with PathManager.open(path, "w") as file:
            json.dump(content, file)
        logger.info("Wrote %s", path)


def _metrics(confusion: np.ndarray) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """Overall numbers, IoU and accuracy of each class; percent, NaN where undefined."""
    correct = confusion.diagonal().astype(float)
    true = confusion.sum(axis=0).astype(float)
    union = true + confusion.sum(axis=1) - correct
    present = true > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        # Classes that are only predicted are left out, as Detectron2 does.
        iou = np.where(present, 100 * correct / union, np.nan)
        accuracy = np.where(present, 100 * correct / true, np.nan)
    if not present.any():
        return dict.fromkeys(("mIoU", "fwIoU", "mACC", "pACC"), float("nan")), iou, accuracy
    overall = {
        "mIoU": iou[present].mean(),
        "fwIoU": (iou[present] * true[present]).sum() / true.sum(),
        "mACC": accuracy[present].mean(),
        "pACC": 100 * correct.sum() / true.sum(),
    }
    return {name: float(value) for name, value in overall.items()}, iou, accuracy


def _overall_table(overall: dict[str, float]) -> str:
    return tabulate(
        [list(overall.values())], headers=list(overall), tablefmt="pipe", floatfmt=".3f"
    )
