"""Panoptic quality while predicting, and predictions in COCO's format."""

import json
import logging
import os
import zipfile
from collections import OrderedDict
from itertools import chain

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from tabulate import tabulate

from lvt_d2.errors import ConfigError
from lvt_d2.evaluation.ground_truth import PanopticGroundTruth
from lvt_d2.evaluation.panoptic_quality import PanopticQuality
from lvt_d2.evaluation.png_writer import PanopticPngWriter

logger = logging.getLogger(__name__)

_SUBMISSION = "panoptic_test-dev2017_{}_results"  # the COCO server's rule for names


class PanopticEvaluator(DatasetEvaluator):
    """PQ, SQ and RQ of all classes, things and stuff, in percent, computed image by image.

    The numbers are those of Detectron2's `COCOPanopticEvaluator`; nothing has to be written for
    them. A set without labels (no ``panoptic_json`` in its metadata, as COCO test-dev) gives no
    numbers but a zip for COCO's server.

    Args:
        dataset_name: registered, with Detectron2's metadata of ``*_panoptic_separated`` sets.
        output_dir: where ``predictions.json`` and ``panoptic/*.png`` are written in the COCO
            panoptic format, the PNGs while predicting. None: nothing is written.
        distributed: gather from all processes; else evaluate this process' images only.
        method_name: part of the zip's name, which COCO's server asks for.

    Raises:
        ConfigError: a set without labels, and no ``output_dir`` for the zip.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        distributed: bool = True,
        method_name: str = "lvt",
    ):
        self._truth = PanopticGroundTruth(dataset_name)
        if not self._truth.available and output_dir is None:
            raise ConfigError(
                f"{dataset_name!r} has no panoptic labels to evaluate on, and no output_dir to "
                "write predictions to; give PanopticEvaluator an output_dir"
            )
        self._output_dir = output_dir
        self._distributed = distributed
        self._submission = _SUBMISSION.format(method_name)
        self._categories = self._truth.categories()
        self._writer = None
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._truth.reset()
        self._quality = PanopticQuality(self._categories)
        self._annotations: list[dict] = []
        self._images: list[dict] = []
        if self._writer is not None:
            self._writer.close()
        self._writer = None
        if self._output_dir is not None:
            self._writer = PanopticPngWriter(os.path.join(self._output_dir, "panoptic"))

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take a batch.

        Args:
            inputs: dataset dicts.
            outputs: dicts with ``"panoptic_seg"``: (H, W) integer tensor of segment ids (0 void)
                and its segments (``id``, contiguous ``category_id``, ``isthing``); or None
                instead of the segments: ids are ``category * label_divisor + instance``, -1 void.

        Raises:
            DatasetError: the ground truth is missing or broken.
            ValueError: the prediction contradicts itself, the image or the data set's classes.
        """
        for record, output in zip(inputs, outputs, strict=True):
            ids, segments = output["panoptic_seg"]
            ids = ids.cpu().numpy()
            if segments is None:
                ids, segments = self._segments_of(ids)
            segments = self._truth.to_dataset_ids(segments)
            if self._truth.available:
                self._compare(record, ids, segments)
            self._keep(record, ids, segments)

    def _segments_of(self, ids: np.ndarray) -> tuple[np.ndarray, list[dict]]:
        """Move ids up by 1, so that 0 is void, and read the segments off them."""
        things = set(self._truth.metadata.thing_dataset_id_to_contiguous_id.values())
        divisor = self._truth.metadata.label_divisor
        labels = (label for label in np.unique(ids).tolist() if label != -1)
        categories = {label: label // divisor for label in labels}
        segments = [
            {"id": label + 1, "category_id": category, "isthing": category in things}
            for label, category in categories.items()
        ]
        return ids + 1, segments

    def _compare(self, record: dict, ids: np.ndarray, segments: list[dict]) -> None:
        gt_ids, gt_segments = self._truth.read(record)
        gt_segments = self._truth.to_dataset_ids(gt_segments)
        try:
            self._quality.update(gt_ids, gt_segments, ids, segments)
        except ValueError as error:
            name = record.get("file_name", record["image_id"])
            raise ValueError(f"the prediction for {name} can't be evaluated: {error}") from error

    def _keep(self, record: dict, ids: np.ndarray, segments: list[dict]) -> None:
        if self._writer is None:
            return
        name = os.path.basename(record["file_name"])
        png = os.path.splitext(name)[0] + ".png"
        self._writer.write(png, ids)
        image = {"id": record["image_id"], "file_name": name}
        self._images.append({**image, "height": ids.shape[0], "width": ids.shape[1]})
        self._annotations.append(
            {
                "image_id": record["image_id"],
                "file_name": png,
                "segments_info": [
                    {"id": int(s["id"]), "category_id": int(s["category_id"])} for s in segments
                ],
            }
        )

    def evaluate(self) -> OrderedDict | None:
        """Merge all processes, write the files and log the tables.

        Returns:
            ``{"panoptic_seg": {"PQ", "SQ", "RQ", "PQ_th", ..., "RQ_st"}}`` in percent, NaN where
            no class occurs; empty without labels. None on processes other than the main one.
        """
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        quality, images, annotations = self._quality, self._images, self._annotations
        if self._distributed:
            comm.synchronize()
            parts = comm.gather((quality, images, annotations), dst=0)
            if not comm.is_main_process():
                return None
            quality = PanopticQuality(self._categories)
            for part, _, _ in parts:
                quality.merge(part)
            images = list(chain.from_iterable(part for _, part, _ in parts))
            annotations = list(chain.from_iterable(part for _, _, part in parts))
        if self._output_dir is not None:
            self._write_json(images, annotations)
        if not self._truth.available:
            self._write_submission(annotations)
            return OrderedDict()
        summary = quality.summary()
        logger.info("Panoptic quality by class:\n%s", _class_table(quality, self._categories))
        logger.info("Panoptic Evaluation Results:\n%s", _summary_table(summary))
        return OrderedDict(panoptic_seg=_percentages(summary))

    def _write_json(self, images: list[dict], annotations: list[dict]) -> None:
        content = {"images": images, "annotations": annotations, "categories": self._categories}
        path = os.path.join(self._output_dir, "predictions.json")
        with PathManager.open(path, "w") as file:
            json.dump(content, file)
        logger.info("Wrote %d predictions to %s", len(annotations), path)

    def _write_submission(self, annotations: list[dict]) -> None:
        path = os.path.join(self._output_dir, f"{self._submission}.zip")
        folder = os.path.join(self._output_dir, "panoptic")
        with (
            PathManager.open(path, "wb") as file,
            zipfile.ZipFile(file, "w", compression=zipfile.ZIP_DEFLATED) as archive,
        ):
            text = json.dumps({"annotations": annotations})
            archive.writestr(f"{self._submission}.json", text)
            for name in (annotation["file_name"] for annotation in annotations):
                with PathManager.open(os.path.join(folder, name), "rb") as png:
                    # PNGs are compressed already.
                    archive.writestr(
                        f"{self._submission}/{name}", png.read(), compress_type=zipfile.ZIP_STORED
                    )
        logger.info("Wrote %s with %d images for the COCO server", path, len(annotations))


def _percentages(summary: dict[str, dict[str, float]]) -> dict[str, float]:
    return {
        f"{metric.upper()}{suffix}": 100 * summary[group][metric]
        for group, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st"))
        for metric in ("pq", "sq", "rq")
    }


def _summary_table(summary: dict[str, dict[str, float]]) -> str:
    """Detectron2's table."""
    return tabulate(
        [
            [name, *(100 * values[metric] for metric in ("pq", "sq", "rq")), values["n"]]
            for name, values in summary.items()
        ],
        headers=["", "PQ", "SQ", "RQ", "#categories"],
        tablefmt="pipe",
        floatfmt=".3f",
        stralign="center",
        numalign="center",
    )


def _class_table(quality: PanopticQuality, categories: list[dict]) -> str:
    names = {category["id"]: category["name"] for category in categories}
    return tabulate(
        [
            [
                names[i],
                *(100 * v[k] for k in ("pq", "sq", "rq")),
                *(v[k] for k in ("tp", "fp", "fn")),
            ]
            for i, v in quality.per_class().items()
        ],
        headers=["class", "PQ", "SQ", "RQ", "TP", "FP", "FN"],
        tablefmt="pipe",
        floatfmt=".3f",
    )
