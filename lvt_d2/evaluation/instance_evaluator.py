"""COCO's AP of boxes and masks against instances derived from panoptic labels."""

import contextlib
import io
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from itertools import chain, zip_longest

import numpy as np
import pycocotools.mask as mask_util
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table
from pycocotools.coco import COCO
from tabulate import tabulate

from lvt_d2.errors import ConfigError
from lvt_d2.evaluation.coco_ap import FastCOCOeval
from lvt_d2.evaluation.ground_truth import PanopticGroundTruth
from lvt_d2.evaluation.run_lengths import encode_masks, encode_segments

logger = logging.getLogger(__name__)
# Detectron2's setup shows every level of this project's own loggers.
_pycocotools_logger = logging.getLogger("pycocotools")

_TASKS = ("bbox", "segm")
_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # the first six of COCOeval's stats


class InstanceEvaluator(DatasetEvaluator):
    """Box and mask AP in percent, by pycocotools, with the names and tables of `COCOEvaluator`.

    pycocotools' own text goes to the logger ``pycocotools`` at the level DEBUG.

    The true objects are the thing segments of the panoptic PNGs, boxes drawn tight around them;
    crowds are ignored regions, as COCO has them. Compared with COCO's instance files, masks don't
    overlap. A class without objects has the AP NaN; objects without any prediction count as 0.

    Args:
        dataset_name: registered, with Detectron2's metadata of ``*_panoptic_separated`` sets.
        tasks: of ``"bbox"`` and ``"segm"``.
        output_dir: where ``coco_instances_results.json`` is written. None: it is not.
        distributed: gather from all processes; else evaluate this process' images only.

    Raises:
        ConfigError: an unknown task.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] = _TASKS,
        output_dir: str | None = None,
        distributed: bool = True,
    ):
        self._tasks = tuple(tasks)
        unknown = [task for task in self._tasks if task not in _TASKS]
        if unknown:
            raise ConfigError(
                f"InstanceEvaluator's tasks are {list(self._tasks)}; {unknown} is unknown, "
                f"expected some of {list(_TASKS)}"
            )
        self._truth = PanopticGroundTruth(dataset_name)
        own_ids = self._truth.metadata.thing_dataset_id_to_contiguous_id
        names = self._truth.metadata.thing_classes
        # pycocotools reports the classes in the order of the set's own ids
        self._class_names = [names[own_ids[own]] for own in sorted(own_ids)]
        self._to_own_id = {contiguous: own for own, contiguous in own_ids.items()}
        self._output_dir = output_dir
        self._distributed = distributed
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._truth.reset()
        self._images: list[dict] = []
        self._objects: list[dict] = []
        self._detections: list[dict] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take a batch.

        Args:
            inputs: dataset dicts.
            outputs: dicts with ``"instances"`` (``pred_boxes``, ``scores``, ``pred_classes`` and
                for "segm" ``pred_masks``), at the images' own size.

        Raises:
            DatasetError: the ground truth is missing or broken.
            ValueError: a class is beyond those of the set.
        """
        for record, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            self._detections.extend(self._found(instances, record["image_id"]))
            if self._truth.available:
                ids, segments = self._truth.read(record)
                height, width = ids.shape
                self._images.append({"id": record["image_id"], "height": height, "width": width})
                self._objects.extend(self._true_objects(record["image_id"], ids, segments))

    def _found(self, instances: Instances, image_id: int | str) -> list[dict]:
        """Detections of an image in COCO's format of results."""
        masks = None
        if instances.has("pred_masks"):
            masks = instances.pred_masks
            instances.remove("pred_masks")  # of the copy that is on the CPU
        found = instances_to_coco_json(instances, image_id)
        for detection in found:
            detection["category_id"] = self._own_id(detection["category_id"])
        if masks is not None:
            codes = encode_masks(getattr(masks, "tensor", masks))
            for detection, code in zip(found, codes, strict=True):
                detection["segmentation"] = code | {"counts": code["counts"].decode("ascii")}
        return found

    def _own_id(self, label: int) -> int:
        if label not in self._to_own_id:
            raise ValueError(
                f"a detection is of class {label}, but {self._truth.dataset_name!r} has "
                f"{len(self._to_own_id)} things, 0..{len(self._to_own_id) - 1}; num_classes of the "
                "model must agree with the data set"
            )
        return self._to_own_id[label]

    def _true_objects(self, image_id: int, ids: np.ndarray, segments: list[dict]) -> list[dict]:
        things = [s for s in segments if s["isthing"]]
        if not things:
            return []
        rles = encode_segments(ids, [s["id"] for s in things])
        return [
            {
                "image_id": image_id,
                "category_id": self._own_id(segment["category_id"]),
                "iscrowd": int(segment.get("iscrowd", 0)),
                "segmentation": rle,
                "bbox": mask_util.toBbox(rle).tolist(),
                "area": int(mask_util.area(rle)),
            }
            for segment, rle in zip(things, rles, strict=True)
        ]

    def evaluate(self) -> OrderedDict | None:
        """Gather all processes, run pycocotools, and log the tables.

        Returns:
            By task ``{"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-<class>"}`` in percent, NaN
            where there is no object; empty for sets without labels. None on processes other than
            the main one.
        """
        images, objects, detections = self._images, self._objects, self._detections
        if self._distributed:
            comm.synchronize()
            parts = comm.gather((images, objects, detections), dst=0)
            if not comm.is_main_process():
                return None
            images, objects, detections = (
                list(chain.from_iterable(part)) for part in zip(*parts, strict=True)
            )
        if self._output_dir is not None:
            self._write(detections)
        if not self._truth.available:
            logger.info("%r has no labels: AP is not computed", self._truth.dataset_name)
            return OrderedDict()
        if not detections:
            logger.warning("No instance was predicted on any of %d images", len(images))
        truth = self._index(images, objects)
        results = OrderedDict()
        for task in self._tasks:
            # An entry with a box and a mask would have the box's area in both tasks.
            unused = "segmentation" if task == "bbox" else "bbox"
            entries = [{k: v for k, v in d.items() if k != unused} for d in detections]
            results[task] = self._run(truth, entries, task)
        return results

    def _write(self, detections: list[dict]) -> None:
        PathManager.mkdirs(self._output_dir)
        path = os.path.join(self._output_dir, "coco_instances_results.json")
        with PathManager.open(path, "w") as file:
            json.dump(detections, file)
        logger.info("Wrote %d detections to %s", len(detections), path)

    def _index(self, images: list[dict], objects: list[dict]) -> COCO:
        categories = [{"id": own} for own in sorted(self._to_own_id.values())]
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": images,
            "categories": categories,
            "annotations": [{"id": i, **entry} for i, entry in enumerate(objects, start=1)],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        return coco

    def _run(self, truth: COCO, detections: list[dict], task: str) -> dict[str, float]:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if detections:
                found = truth.loadRes(detections)
            else:  # which loadRes can't read
                found = self._index(truth.dataset["images"], [])
            evaluation = FastCOCOeval(truth, found, task)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        _pycocotools_logger.debug("On %s:\n%s", task, printed.getvalue())
        results = {
            name: 100 * float(value) if value >= 0 else float("nan")
            for name, value in zip(_METRICS, evaluation.stats[: len(_METRICS)], strict=True)
        }
        logger.info("Evaluation results for %s: \n%s", task, create_small_table(results))
        if len(self._class_names) > 1:
            by_class = _class_aps(evaluation.eval["precision"], self._class_names)
            logger.info("Per-category %s AP: \n%s", task, _class_table(by_class))
            results.update({f"AP-{name}": ap for name, ap in by_class.items()})
        return results


def _class_aps(precision: np.ndarray, names: list[str]) -> dict[str, float]:
    """AP in percent from (IoUs, recalls, classes, areas, limits), where -1 means no object."""
    overall = precision[:, :, :, 0, -1].reshape(-1, precision.shape[2])
    aps = {}
    for name, values in zip(names, overall.T, strict=True):
        values = values[values > -1]
        aps[name] = 100 * float(values.mean()) if values.size else float("nan")
    return aps


def _class_table(aps: dict[str, float]) -> str:
    columns = min(6, 2 * len(aps))
    cells = list(chain.from_iterable(aps.items()))
    return tabulate(
        zip_longest(*(cells[i::columns] for i in range(columns))),
        headers=["category", "AP"] * (columns // 2),
        tablefmt="pipe",
        floatfmt=".3f",
        numalign="left",
    )
