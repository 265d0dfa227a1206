"""Panoptic quality by COCO's rules, without the package that Detectron2 needs for it."""

import io
import itertools
import json
import logging
import os
from collections import Counter, OrderedDict

import numpy as np
from PIL import Image
from tabulate import tabulate

from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from .evaluator import DatasetEvaluator

logger = logging.getLogger(__name__)

_VOID = 0


class COCOPanopticEvaluator(DatasetEvaluator):
    """PQ, SQ and RQ of all, thing and stuff classes, in percent.

    The data set's metadata names the ground truth: ``panoptic_json`` and ``panoptic_root``.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None):
        """Evaluate on `dataset_name`; with `output_dir`, write ``predictions.json`` there."""
        self._metadata = MetadataCatalog.get(dataset_name)
        things = self._metadata.thing_dataset_id_to_contiguous_id.items()
        stuff = self._metadata.stuff_dataset_id_to_contiguous_id.items()
        self._thing_contiguous_id_to_dataset_id = {v: k for k, v in things}
        self._stuff_contiguous_id_to_dataset_id = {v: k for k, v in stuff}
        self._output_dir = output_dir
        if output_dir is not None:
            PathManager.mkdirs(output_dir)

    def reset(self):
        self._predictions = []

    def _convert_category_id(self, segment_info):
        """A copy with the data set's class id; without ``isthing`` the id is that already."""
        segment = dict(segment_info)
        isthing = segment.pop("isthing", None)
        if isthing is not None:
            kind = "thing" if isthing is True else "stuff"
            ids = getattr(self, f"_{kind}_contiguous_id_to_dataset_id")
            segment["category_id"] = ids[segment["category_id"]]
        return segment

    def _segments_of_map(self, panoptic_img: np.ndarray) -> list[dict]:
        """Segments of a map of ``category * label_divisor + instance``, -1 void; ids are + 1."""
        things = self._metadata.thing_dataset_id_to_contiguous_id.values()
        segments = []
        for label in np.unique(panoptic_img).tolist():
            if label != -1:
                category = label // self._metadata.label_divisor
                segment = {"category_id": category, "isthing": category in things}
                segments.append({"id": label + 1, **segment})
        return segments

    def process(self, inputs, outputs):
        """Take a batch.

        Args:
            inputs: dicts with ``image_id`` and ``file_name``.
            outputs: dicts with ``panoptic_seg``: a map (H, W) of segment ids, 0 void, and the list
                of segments (``id``, ``category_id``, ``isthing``). Instead of the list None: the
                map holds ``category * label_divisor + instance``, and -1 is void.
        """
        for record, output in zip(inputs, outputs, strict=False):
            ids, segments = output["panoptic_seg"]
            ids = ids.cpu().numpy()
            if segments is None:
                segments, ids = self._segments_of_map(ids), ids + 1
            name = os.path.splitext(os.path.basename(record["file_name"]))[0] + ".png"
            with io.BytesIO() as file:
                Image.fromarray(_to_rgb(ids)).save(file, format="PNG")
                prediction = {"file_name": name, "png_string": file.getvalue()}
            prediction["segments_info"] = [self._convert_category_id(s) for s in segments]
            self._predictions.append({"image_id": record["image_id"], **prediction})

    def evaluate(self):
        """Results under "panoptic_seg"; None on processes other than the main one."""
        comm.synchronize()
        self._predictions = list(itertools.chain(*comm.gather(self._predictions)))
        if not comm.is_main_process():
            return None
        pngs = {p["file_name"]: p.pop("png_string") for p in self._predictions}
        with PathManager.open(self._metadata.panoptic_json) as file:
            gt_json = json.load(file)
        if self._output_dir is not None:
            path = os.path.join(self._output_dir, "predictions.json")
            with PathManager.open(path, "w") as file:
                file.write(json.dumps({**gt_json, "annotations": self._predictions}))
        gt_folder = self._metadata.panoptic_root
        pq_res = _pq_compute(
            gt_json,
            self._predictions,
            lambda name: _read_ids(os.path.join(gt_folder, name)),
            lambda name: _to_ids(np.asarray(Image.open(io.BytesIO(pngs[name])))),
        )
        _print_panoptic_results(pq_res)
        res = {}
        for group, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
            for metric in ("pq", "sq", "rq"):
                res[f"{metric.upper()}{suffix}"] = 100 * pq_res[group][metric]
        return OrderedDict({"panoptic_seg": res})


def _to_rgb(ids: np.ndarray) -> np.ndarray:
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536 % 256], axis=-1).astype(np.uint8)


def _to_ids(rgb: np.ndarray) -> np.ndarray:
    return rgb[..., :3].astype(np.int64) @ np.array([1, 256, 65536])


def _read_ids(path: str) -> np.ndarray:
    with PathManager.open(path, "rb") as file:
        return _to_ids(np.asarray(Image.open(file)))


def _check_prediction(prediction: dict, present: set, categories: dict) -> None:
    """Raise a KeyError where a prediction's map and its list of segments disagree."""
    place = f"In the image with ID {prediction['image_id']}"
    listed = {segment["id"] for segment in prediction["segments_info"]}
    for label in sorted(present - listed - {_VOID}):
        raise KeyError(f"{place} segment with ID {label} is presented in PNG and not in JSON.")
    for segment in prediction["segments_info"]:
        if (category := segment["category_id"]) not in categories:
            raise KeyError(f"{place} segment {segment['id']} has unknown category_id {category}.")
    if missing := sorted(listed - present):
        raise KeyError(f"{place} segment IDs {missing} are presented in JSON and not in PNG.")


def _count_image(gt: dict, prediction: dict, gt_ids, pred_ids, categories: dict, stats) -> None:
    """Add one image to ``stats[category] = [IoU sum, TP, FP, FN]``."""
    pairs, sizes = np.unique(gt_ids << 32 | pred_ids, return_counts=True)
    pairs = zip((pairs >> 32).tolist(), (pairs & 0xFFFFFFFF).tolist(), strict=True)
    overlap, area = dict(zip(pairs, sizes.tolist(), strict=True)), Counter()
    for (_, label), size in overlap.items():
        area[label] += size
    _check_prediction(prediction, set(area), categories)
    truth = {segment["id"]: segment for segment in gt["segments_info"]}
    guess = {segment["id"]: segment["category_id"] for segment in prediction["segments_info"]}
    matched = set()
    for (g, p), size in overlap.items():
        if g not in truth or p not in guess or truth[g].get("iscrowd", 0) == 1:
            continue
        union = area[p] + truth[g]["area"] - size - overlap.get((_VOID, p), 0)
        if truth[g]["category_id"] == guess[p] and size / union > 0.5:
            stats[guess[p]] += (size / union, 1, 0, 0)
            matched |= {("gt", g), ("pred", p)}
    crowds = {}
    for g, segment in truth.items():
        if segment.get("iscrowd", 0) == 1:
            crowds[segment["category_id"]] = g
        elif ("gt", g) not in matched:
            stats[segment["category_id"]][3] += 1
    for p, category in guess.items():
        # Predictions that lie mostly on void or on a crowd of their class are no mistakes.
        excused = overlap.get((_VOID, p), 0) + overlap.get((crowds.get(category), p), 0)
        if ("pred", p) not in matched and excused / area[p] <= 0.5:
            stats[category][2] += 1


def _average(stats: dict, ids) -> dict:
    """Means over the classes `ids` that occur; NaN if none does."""
    rows = np.array([stats[i] for i in ids]).reshape(-1, 4)
    rows = rows[rows[:, 1:].sum(axis=1) > 0]
    iou, tp, fp, fn = rows.T
    weight = tp + 0.5 * fp + 0.5 * fn
    values = {"pq": iou / weight, "sq": iou / np.maximum(tp, 1), "rq": tp / weight}
    means = {k: float(v.mean()) if len(rows) else float("nan") for k, v in values.items()}
    return {**means, "n": len(rows)}


def _pq_compute(gt_json: dict, predictions: list[dict], read_gt, read_pred) -> dict:
    """Panoptic quality, as fractions.

    Args:
        gt_json: in COCO's panoptic format.
        predictions: annotations in that format; each image of `gt_json` needs one.
        read_gt: gives the ids of a ground truth PNG by its name.
        read_pred: gives those of a prediction.

    Returns:
        ``pq``, ``sq``, ``rq``, and ``n`` classes, under All, Things and Stuff.
    """
    categories = {category["id"]: category for category in gt_json["categories"]}
    by_image = {prediction["image_id"]: prediction for prediction in predictions}
    stats = {category: np.zeros(4) for category in categories}
    for gt in gt_json["annotations"]:
        if gt["image_id"] not in by_image:
            raise Exception(f"no prediction for the image with id: {gt['image_id']}")
        prediction = by_image[gt["image_id"]]
        gt_ids, pred_ids = read_gt(gt["file_name"]), read_pred(prediction["file_name"])
        _count_image(gt, prediction, gt_ids, pred_ids, categories, stats)
    things = [i for i, category in categories.items() if category["isthing"] == 1]
    stuff = [i for i in categories if i not in things]
    groups = {"All": categories, "Things": things, "Stuff": stuff}
    return {name: _average(stats, group) for name, group in groups.items()}


def _print_panoptic_results(pq_res):
    rows = [
        [name, 100 * res["pq"], 100 * res["sq"], 100 * res["rq"], res["n"]]
        for name, res in pq_res.items()
    ]
    style = {"tablefmt": "pipe", "floatfmt": ".3f", "stralign": "center", "numalign": "center"}
    table = tabulate(rows, ["", "PQ", "SQ", "RQ", "#categories"], **style)
    logger.info("Panoptic Evaluation Results:\n" + table)
