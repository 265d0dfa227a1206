"""COCO's AP of boxes and masks, and AR of proposals."""

import contextlib
import copy
import io
import itertools
import json
import logging
import os
import pickle
from collections import OrderedDict

import numpy as np
import pycocotools.mask as mask_util
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

import detectron2.utils.comm as comm
from detectron2._scope import missing_attribute
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.structures import Boxes, BoxMode, pairwise_iou
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table

from .evaluator import DatasetEvaluator

_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
# Sides of squares, pixels.
_AREA_RANGES = {"all": (0, 1e5), "small": (0, 32), "medium": (32, 96), "large": (96, 1e5)}
_AREA_RANGES |= {"96-128": (96, 128), "128-256": (128, 256), "256-512": (256, 512)}
_AREA_RANGES |= {"512-inf": (512, 1e5)}
__getattr__ = missing_attribute(__name__)


class COCOEvaluator(DatasetEvaluator):
    """AP of boxes ("bbox") and masks ("segm") by COCO's rules, AR of proposals; in percent."""

    def __init__(
        self,
        dataset_name,
        tasks=None,
        distributed=True,
        output_dir=None,
        *,
        max_dets_per_image=None,
        use_fast_impl=True,
        kpt_oks_sigmas=(),
        allow_cached_coco=True,
    ):
        """Read the ground truth of a data set in COCO's format, or write it in that format.

        Args:
            dataset_name: registered. Its metadata has the ``json_file`` in COCO's format; else
                the data set is converted into ``output_dir``.
            tasks: names of "bbox" and "segm"; None: by what is predicted.
            distributed: gather from all processes; else evaluate this process' images only.
            output_dir: where predictions are written: ``instances_predictions.pth``,
                ``coco_instances_results.json``, ``box_proposals.pkl``.
            max_dets_per_image: the best so many of an image count; None: 100.
            use_fast_impl: accepted; the evaluation is always pycocotools'.
            kpt_oks_sigmas: kept; keypoints are not evaluated here.
            allow_cached_coco: take a conversion that an earlier run wrote.
        """
        self._logger = logging.getLogger(__name__)
        self._distributed, self._output_dir = distributed, output_dir
        if use_fast_impl:
            self._logger.info("Fast COCO eval is not built. Falling back to official COCO eval.")
        self._use_fast_impl = False
        limit = 100 if max_dets_per_image is None else max_dets_per_image
        self._max_dets_per_image = [1, 10, limit]
        if isinstance(tasks, CfgNode):
            self._logger.warning("COCO Evaluator instantiated using config, which is deprecated.")
            kpt_oks_sigmas = kpt_oks_sigmas or tasks.TEST.KEYPOINT_OKS_SIGMAS
            tasks = None
        self._tasks = tasks
        self._cpu_device = torch.device("cpu")
        self._metadata = MetadataCatalog.get(dataset_name)
        if not hasattr(self._metadata, "json_file"):
            if output_dir is None:
                raise ValueError("output_dir must be provided for datasets not in COCO format.")
            self._logger.info(f"Trying to convert '{dataset_name}' to COCO format ...")
            path = os.path.join(output_dir, f"{dataset_name}_coco_format.json")
            self._metadata.json_file = path
            convert_to_coco_json(dataset_name, path, allow_cached=allow_cached_coco)
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api = COCO(PathManager.get_local_path(self._metadata.json_file))
        # Files of test sets hold no annotations.
        self._do_evaluation = "annotations" in self._coco_api.dataset
        if self._do_evaluation:
            self._kpt_oks_sigmas = kpt_oks_sigmas

    def reset(self):
        self._predictions = []

    def process(self, inputs, outputs):
        """Take a batch.

        Args:
            inputs: dicts with ``image_id``.
            outputs: dicts with ``instances`` or ``proposals`` or both; others are passed over.
        """
        for record, output in zip(inputs, outputs, strict=False):
            prediction = {"image_id": record["image_id"]}
            if "instances" in output:
                instances = output["instances"].to(self._cpu_device)
                prediction["instances"] = instances_to_coco_json(instances, record["image_id"])
            if "proposals" in output:
                prediction["proposals"] = output["proposals"].to(self._cpu_device)
            if len(prediction) > 1:
                self._predictions.append(prediction)

    def evaluate(self, img_ids=None):
        """Results by task; {} without predictions and on processes other than the main one.

        Args:
            img_ids: evaluate on these images only; None: on all of the data set.
        """
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            predictions = list(itertools.chain(*comm.gather(predictions, dst=0)))
            if not comm.is_main_process():
                return {}
        if len(predictions) == 0:
            self._logger.warning("[COCOEvaluator] Did not receive valid predictions.")
            return {}
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            with self._open("instances_predictions.pth", "wb") as file:
                torch.save(predictions, file)
        self._results = OrderedDict()
        if "proposals" in predictions[0]:
            self._eval_box_proposals(predictions)
        if "instances" in predictions[0]:
            self._eval_predictions(predictions, img_ids=img_ids)
        return copy.deepcopy(self._results)

    def _open(self, name: str, mode: str):
        path = os.path.join(self._output_dir, name)
        self._logger.info(f"Saving results to {path}")
        return PathManager.open(path, mode)

    def _tasks_from_predictions(self, predictions):
        return ["bbox", "segm"] if any("segmentation" in p for p in predictions) else ["bbox"]

    def _with_dataset_ids(self, results: list[dict]) -> list[dict]:
        """Results whose classes are the data set's own ids."""
        if not hasattr(self._metadata, "thing_dataset_id_to_contiguous_id"):
            return results
        to_dataset = {v: k for k, v in self._metadata.thing_dataset_id_to_contiguous_id.items()}
        count = len(to_dataset)
        assert min(to_dataset) == 0 and max(to_dataset) == count - 1
        for result in results:
            assert result["category_id"] < count, (
                f"A prediction has class={result['category_id']}, but the dataset only has {count}."
            )
        return [{**result, "category_id": to_dataset[result["category_id"]]} for result in results]

    def _eval_predictions(self, predictions, img_ids=None):
        self._logger.info("Preparing results for COCO format ...")
        results = list(itertools.chain(*(p["instances"] for p in predictions)))
        tasks = self._tasks or self._tasks_from_predictions(results)
        results = self._with_dataset_ids(results)
        if self._output_dir:
            with self._open("coco_instances_results.json", "w") as file:
                file.write(json.dumps(results))
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return
        self._logger.info("Evaluating predictions with official COCO API...")
        for task in sorted(tasks):
            assert task in {"bbox", "segm"}, f"Got unknown task: {task}!"
            coco_eval = None
            if results:  # pycocotools fails on an empty list
                coco_eval = _evaluate_predictions_on_coco(
                    self._coco_api, results, task, img_ids, self._max_dets_per_image
                )
            names = self._metadata.get("thing_classes")
            self._results[task] = self._derive_coco_results(coco_eval, task, class_names=names)

    def _eval_box_proposals(self, predictions):
        if self._output_dir:
            proposals = [p["proposals"] for p in predictions]
            data = {
                "boxes": [p.proposal_boxes.tensor.numpy() for p in proposals],
                "objectness_logits": [p.objectness_logits.numpy() for p in proposals],
                "ids": [p["image_id"] for p in predictions],
                "bbox_mode": BoxMode.XYXY_ABS.value,
            }
            with self._open("box_proposals.pkl", "wb") as file:
                pickle.dump(data, file)
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return
        self._logger.info("Evaluating bbox proposals ...")
        res = {}
        for limit in (100, 1000):
            for area, suffix in (("all", ""), ("small", "s"), ("medium", "m"), ("large", "l")):
                stats = _evaluate_box_proposals(predictions, self._coco_api, area=area, limit=limit)
                res[f"AR{suffix}@{limit}"] = stats["ar"].item() * 100
        self._logger.info("Proposal metrics: \n" + create_small_table(res))
        self._results["box_proposals"] = res

    def _derive_coco_results(self, coco_eval, iou_type, class_names=None):
        """Metrics by name in percent, NaN where undefined, from a summarised COCOeval or None."""
        if coco_eval is None:
            self._logger.warning("No predictions from the model!")
            return {metric: float("nan") for metric in _METRICS}
        stats = np.where(coco_eval.stats >= 0, coco_eval.stats * 100, np.nan).tolist()
        results = dict(zip(_METRICS, stats, strict=False))
        self._logger.info(f"Evaluation results for {iou_type}: \n" + create_small_table(results))
        if not np.isfinite(sum(results.values())):
            self._logger.info("Some metrics cannot be computed and is shown as NaN.")
        if class_names is None or len(class_names) <= 1:
            return results
        # (IoU thresholds, recalls, classes, area ranges, numbers of detections); -1: no object
        precisions = coco_eval.eval["precision"]
        assert len(class_names) == precisions.shape[2]
        per_class = []
        for index, name in enumerate(class_names):
            precision = precisions[:, :, index, 0, -1]
            precision = precision[precision > -1]
            ap = float(np.mean(precision) * 100) if precision.size else float("nan")
            per_class.append((str(name), ap))
        columns = min(6, 2 * len(per_class))
        flat = list(itertools.chain(*per_class))
        rows = itertools.zip_longest(*(flat[i::columns] for i in range(columns)))
        headers = ["category", "AP"] * (columns // 2)
        table = tabulate(rows, headers, tablefmt="pipe", floatfmt=".3f", numalign="left")
        self._logger.info(f"Per-category {iou_type} AP: \n" + table)
        results.update({f"AP-{name}": ap for name, ap in per_class})
        return results


def instances_to_coco_json(instances, img_id):
    """Entries of COCO's result format, with contiguous classes, boxes XYWH and masks as RLE.

    Args:
        instances: predictions of one image, on the CPU.
        img_id: the image's id.
    """
    if len(instances) == 0:
        return []
    boxes = instances.pred_boxes.tensor.numpy()
    boxes = BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    rows = zip(instances.pred_classes.tolist(), boxes, instances.scores.tolist(), strict=True)
    results = [
        {"image_id": img_id, "category_id": label, "bbox": box, "score": score}
        for label, box, score in rows
    ]
    if instances.has("pred_masks"):
        for result, mask in zip(results, instances.pred_masks, strict=True):
            rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
            rle["counts"] = rle["counts"].decode("utf-8")
            result["segmentation"] = rle
    return results


def _greedy_overlaps(boxes: Boxes, gt_boxes: Boxes) -> torch.Tensor:
    """IoU of every ground truth with its box: pairs of highest IoU first, each box used once."""
    overlaps = pairwise_iou(boxes, gt_boxes)
    found = torch.zeros(len(gt_boxes))
    for j in range(min(overlaps.shape)):
        index = overlaps.argmax()
        row, column = divmod(index.item(), overlaps.shape[1])
        found[j] = overlaps[row, column]
        overlaps[row] = overlaps[:, column] = -1
    return found


def _evaluate_box_proposals(dataset_predictions, coco_api, thresholds=None, area="all", limit=None):
    """Recall of the proposals by IoU threshold, and its mean; crowds don't count.

    Args:
        dataset_predictions: dicts of ``image_id`` and ``proposals``.
        coco_api: the ground truth.
        thresholds: 1-d tensor of IoUs; None: 0.5, 0.55 .. 0.95.
        area: name of the range of areas in which an object counts.
        limit: only the best so many proposals of an image count.
    """
    assert area in _AREA_RANGES, f"Unknown area range: {area}"
    low, high = (side**2 for side in _AREA_RANGES[area])
    gt_overlaps, num_pos = [torch.zeros(0)], 0
    for prediction in dataset_predictions:
        proposals = prediction["proposals"]
        proposals = proposals[proposals.objectness_logits.sort(descending=True)[1]]
        annotations = coco_api.loadAnns(coco_api.getAnnIds(imgIds=prediction["image_id"]))
        annotations = [a for a in annotations if a["iscrowd"] == 0]
        if len(annotations) == 0 or len(proposals) == 0:
            continue
        boxes = [a["bbox"] for a in annotations if low <= a["area"] <= high]
        num_pos += len(boxes)
        if boxes:
            boxes = torch.as_tensor(boxes, dtype=torch.float32)
            gt_boxes = Boxes(BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS))
            gt_overlaps.append(_greedy_overlaps(proposals[:limit].proposal_boxes, gt_boxes))
    gt_overlaps = torch.cat(gt_overlaps).sort()[0]
    if thresholds is None:
        thresholds = torch.arange(0.5, 0.95 + 1e-5, 0.05, dtype=torch.float32)
    recalls = (gt_overlaps[None] >= thresholds[:, None]).float().sum(dim=1) / num_pos
    result = {"ar": recalls.mean(), "recalls": recalls, "thresholds": thresholds}
    return result | {"gt_overlaps": gt_overlaps, "num_pos": num_pos}


def _evaluate_predictions_on_coco(
    coco_gt, coco_results, iou_type, img_ids=None, max_dets_per_image=None
):
    """A summarised COCOeval of non-empty results in COCO's format."""
    assert len(coco_results) > 0
    if iou_type == "segm":
        # With a box, an entry's area would be the box's and not the mask's.
        coco_results = [{k: v for k, v in r.items() if k != "bbox"} for r in coco_results]
    else:
        coco_results = copy.deepcopy(coco_results)
    max_dets = [1, 10, 100] if max_dets_per_image is None else max_dets_per_image
    assert len(max_dets) >= 3
    evaluation = COCOeval if max_dets[2] == 100 else COCOevalMaxDets
    coco_eval = evaluation(coco_gt, coco_gt.loadRes(coco_results), iou_type)
    coco_eval.params.maxDets = max_dets
    if img_ids is not None:
        coco_eval.params.imgIds = img_ids
    coco_eval.evaluate()
    coco_eval.accumulate()
    coco_eval.summarize()
    return coco_eval


class COCOevalMaxDets(COCOeval):
    """COCOeval whose AP counts ``maxDets[2]`` detections of an image instead of 100."""

    def summarize(self):
        """Set the 12 ``stats`` and print them."""
        max_dets = self.params.maxDets
        # pycocotools looks for a limit of 100, and for the others by their position.
        self.params.maxDets = [*max_dets[:2], 100, *max_dets[3:]]
        with contextlib.redirect_stdout(io.StringIO()) as text:
            super().summarize()
        self.params.maxDets = max_dets
        print(text.getvalue().replace("maxDets=100", f"maxDets={max_dets[2]:>3d}"), end="")
