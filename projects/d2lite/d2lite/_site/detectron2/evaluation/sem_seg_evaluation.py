"""Semantic segmentation: IoU, accuracy and boundary IoU."""

import itertools
import json
import logging
import os
from collections import OrderedDict

import numpy as np
import pycocotools.mask as mask_util
import torch
from PIL import Image
from scipy.ndimage import minimum_filter

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.comm import all_gather, is_main_process, synchronize
from detectron2.utils.file_io import PathManager

from .evaluator import DatasetEvaluator

_MAX_UINT8 = np.iinfo(np.uint8).max


def load_image_into_numpy_array(filename: str, copy: bool = False, dtype=None) -> np.ndarray:
    """Pixels of an image file, unchanged: (H, W) for label maps."""
    with PathManager.open(filename, "rb") as file:
        image = Image.open(file)
        return np.array(image, dtype=dtype) if copy else np.asarray(image, dtype=dtype)


class SemSegEvaluator(DatasetEvaluator):
    """mIoU, fwIoU, mACC, pACC, and IoU, boundary IoU and accuracy of every class, in percent."""

    def __init__(
        self,
        dataset_name,
        distributed=True,
        output_dir=None,
        *,
        sem_seg_loading_fn=load_image_into_numpy_array,
        num_classes=None,
        ignore_label=None,
    ):
        """Take the ground truth's files from the data set's ``sem_seg_file_name``.

        Args:
            dataset_name: registered, with ``stuff_classes`` and ``ignore_label`` in its metadata.
            distributed: gather from all processes; else evaluate this process' images only.
            output_dir: where predictions (RLE) and results are written, if given.
            sem_seg_loading_fn: reads a ground truth file, ``fn(filename, dtype=int)``.
            num_classes: deprecated, checked against the metadata.
            ignore_label: deprecated, overrides the metadata's.
        """
        self._logger = logging.getLogger(__name__)
        for name, value in (("num_classes", num_classes), ("ignore_label", ignore_label)):
            if value is not None:
                self._logger.warning(f"SemSegEvaluator({name}) is deprecated! Set the metadata.")
        self._dataset_name, self._distributed = dataset_name, distributed
        self._output_dir = output_dir
        self._cpu_device = torch.device("cpu")
        records = DatasetCatalog.get(dataset_name)
        self.input_file_to_gt_file = {x["file_name"]: x["sem_seg_file_name"] for x in records}
        meta = MetadataCatalog.get(dataset_name)
        to_contiguous = getattr(meta, "stuff_dataset_id_to_contiguous_id", None)
        to_dataset = {v: k for k, v in (to_contiguous or {}).items()}
        self._contiguous_id_to_dataset_id = None if to_contiguous is None else to_dataset
        self._class_names = meta.stuff_classes
        self.sem_seg_loading_fn = sem_seg_loading_fn
        self._num_classes = len(meta.stuff_classes)
        if num_classes is not None:
            assert self._num_classes == num_classes, f"{self._num_classes} != {num_classes}"
        self._ignore_label = meta.ignore_label if ignore_label is None else ignore_label
        # Boundaries are differences of 8-bit labels.
        self._compute_boundary_iou = self._num_classes < _MAX_UINT8
        if not self._compute_boundary_iou:
            self._logger.warning(
                f"Boundary IoU is only computed for less than {_MAX_UINT8} classes, and "
                f"{dataset_name} has {self._num_classes}"
            )

    def reset(self):
        shape = (self._num_classes + 1, self._num_classes + 1)
        self._conf_matrix = np.zeros(shape, dtype=np.int64)
        self._b_conf_matrix = np.zeros(shape, dtype=np.int64)
        self._predictions = []

    def _confusion(self, pred: np.ndarray, gt: np.ndarray) -> np.ndarray:
        """Pixel counts by predicted (row) and true (column) class; the last one is "ignored"."""
        side = self._num_classes + 1
        joint = side * pred.reshape(-1).astype(np.int64) + gt.reshape(-1)
        return np.bincount(joint, minlength=side * side).reshape(side, side)

    def process(self, inputs, outputs):
        """Take a batch.

        Args:
            inputs: dicts with ``file_name``.
            outputs: dicts with ``sem_seg``, (K, H, W) scores of the classes.
        """
        for record, output in zip(inputs, outputs, strict=False):
            pred = output["sem_seg"].argmax(dim=0).to(self._cpu_device).numpy().astype(int)
            gt = self.sem_seg_loading_fn(self.input_file_to_gt_file[record["file_name"]], dtype=int)
            gt = np.where(gt == self._ignore_label, self._num_classes, gt)
            self._conf_matrix += self._confusion(pred, gt)
            if self._compute_boundary_iou:
                borders = (self._mask_to_boundary(x.astype(np.uint8)) for x in (pred, gt))
                self._b_conf_matrix += self._confusion(*borders)
            self._predictions.extend(self.encode_json_sem_seg(pred, record["file_name"]))

    def evaluate(self):
        """Results under "sem_seg"; None on processes other than the main one."""
        if self._distributed:
            synchronize()
            gathered = all_gather((self._conf_matrix, self._b_conf_matrix, self._predictions))
            if not is_main_process():
                return None
            self._conf_matrix = sum(part[0] for part in gathered)
            self._b_conf_matrix = sum(part[1] for part in gathered)
            self._predictions = list(itertools.chain(*(part[2] for part in gathered)))
        res = self._metrics()
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            path = os.path.join(self._output_dir, "sem_seg_predictions.json")
            with PathManager.open(path, "w") as file:
                file.write(json.dumps(self._predictions))
            path = os.path.join(self._output_dir, "sem_seg_evaluation.pth")
            with PathManager.open(path, "wb") as file:
                torch.save(res, file)
        results = OrderedDict({"sem_seg": res})
        self._logger.info(results)
        return results

    def _metrics(self) -> dict[str, float]:
        # The ignored row and column are out of both matrices.
        correct, in_gt, union = _counts(self._conf_matrix)
        b_correct, _, b_union = _counts(self._b_conf_matrix)
        present = np.sum(in_gt > 0)
        with np.errstate(invalid="ignore"):
            acc, b_iou = correct / in_gt, b_correct / b_union
            iou = np.where(in_gt > 0, correct / union, np.nan)
            res = {"mIoU": np.nansum(iou) / present, "fwIoU": np.nansum(iou * in_gt) / in_gt.sum()}
            overall = {"mACC": np.nansum(acc) / present, "pACC": correct.sum() / in_gt.sum()}
        for name, value, boundary in zip(self._class_names, iou, b_iou, strict=True):
            res[f"IoU-{name}"] = value
            if self._compute_boundary_iou:
                res[f"BoundaryIoU-{name}"] = boundary
                res[f"min(IoU, B-Iou)-{name}"] = min(value, boundary)
        res.update(overall)
        res.update({f"ACC-{name}": x for name, x in zip(self._class_names, acc, strict=True)})
        return {name: 100 * float(value) for name, value in res.items()}

    def encode_json_sem_seg(self, sem_seg, input_file_name):
        """COCO's result format of a label map (H, W): one RLE for every label in it."""
        entries = []
        for label in np.unique(sem_seg).tolist():
            dataset_id, ids = label, self._contiguous_id_to_dataset_id
            if ids is not None:
                assert label in ids, f"Label {label} is not in the metadata of {self._dataset_name}"
                dataset_id = ids[label]
            rle = mask_util.encode(np.asfortranarray(sem_seg == label, dtype=np.uint8))
            rle["counts"] = rle["counts"].decode("utf-8")
            entry = {"file_name": input_file_name, "category_id": dataset_id}
            entries.append(entry | {"segmentation": rle})
        return entries

    def _mask_to_boundary(self, mask: np.ndarray, dilation_ratio=0.02):
        """What an erosion by 2% of the diagonal takes from the labels; outside counts as 0.

        Args:
            mask: (H, W) uint8 labels.
            dilation_ratio: width of the boundary as a fraction of the image's diagonal.
        """
        assert mask.ndim == 2, "mask_to_boundary expects a 2-dimensional image"
        width = max(1, int(round(dilation_ratio * np.hypot(*mask.shape))))
        eroded = minimum_filter(mask, size=2 * width + 1, mode="constant", cval=0)
        return mask - eroded


def _counts(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correct pixels, pixels in the ground truth, and pixels in the union, of every class."""
    correct = matrix.diagonal()[:-1].astype(float)
    valid = matrix[:-1, :-1]
    in_gt = valid.sum(axis=0).astype(float)
    return correct, in_gt, in_gt + valid.sum(axis=1) - correct
