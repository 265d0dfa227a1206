"""Panoptic quality by COCO's rules, without the package that Detectron2 needs for it."""

import argparse
import io
import itertools
import json
import logging
import os
from collections import OrderedDict

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
        self._thing_contiguous_id_to_dataset_id = {
            v: k for k, v in self._metadata.thing_dataset_id_to_contiguous_id.items()
        }
        self._stuff_contiguous_id_to_dataset_id = {
            v: k for k, v in self._metadata.stuff_dataset_id_to_contiguous_id.items()
        }
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
            ids = (
                self._thing_contiguous_id_to_dataset_id
                if isthing is True
                else self._stuff_contiguous_id_to_dataset_id
            )
            segment["category_id"] = ids[segment["category_id"]]
        return segment

    def _segments_of_map(self, panoptic_img: np.ndarray) -> list[dict]:
        """Segments of a map of ``category * label_divisor + instance``, -1 void; ids are + 1."""
        things = self._metadata.thing_dataset_id_to_contiguous_id.values()
        segments = []
        for label in np.unique(panoptic_img).tolist():
            if label != -1:
                category = label // self._metadata.label_divisor
                segments.append(
                    {"id": label + 1, "category_id": category, "isthing": category in things}
                )
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
                png = file.getvalue()
            self._predictions.append(
                {
                    "image_id": record["image_id"],
                    "file_name": name,
                    "png_string": png,
                    "segments_info": [self._convert_category_id(s) for s in segments],
                }
            )

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
        results = OrderedDict({"panoptic_seg": _percentages(pq_res)})
        _print_panoptic_results(pq_res)
        return results


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
        if segment["category_id"] not in categories:
            raise KeyError(
                f"{place} segment with ID {segment['id']} has unknown category_id "
                f"{segment['category_id']}."
            )
    if missing := sorted(listed - present):
        raise KeyError(
            f"{place} the following segment IDs {missing} are presented in JSON and not in PNG."
        )


def _count_image(gt: dict, prediction: dict, gt_ids, pred_ids, categories: dict, stats) -> None:
    """Add one image to ``stats[category] = [IoU sum, TP, FP, FN]``."""
    pairs, sizes = np.unique(
        gt_ids.astype(np.int64) << 32 | pred_ids.astype(np.int64), return_counts=True
    )
    pairs = zip((pairs >> 32).tolist(), (pairs & 0xFFFFFFFF).tolist(), strict=True)
    overlap = dict(zip(pairs, sizes.tolist(), strict=True))
    area = dict.fromkeys({p for _, p in overlap}, 0)
    for (_, label), size in overlap.items():
        area[label] += size
    _check_prediction(prediction, set(area), categories)
    truth = {segment["id"]: segment for segment in gt["segments_info"]}
    guess = {segment["id"]: segment["category_id"] for segment in prediction["segments_info"]}
    matched = set()
    for (g, p), size in overlap.items():
        if g not in truth or p not in guess or truth[g].get("iscrowd", 0) == 1:
            continue
        if truth[g]["category_id"] != guess[p]:
            continue
        union = area[p] + truth[g]["area"] - size - overlap.get((_VOID, p), 0)
        if size / union > 0.5:
            stats[guess[p]] += (size / union, 1, 0, 0)
            matched |= {("gt", g), ("pred", p)}
    crowds = {}
    for g, segment in truth.items():
        if ("gt", g) in matched:
            continue
        if segment.get("iscrowd", 0) == 1:
            crowds[segment["category_id"]] = g
        else:
            stats[segment["category_id"]][3] += 1
    for p, category in guess.items():
        if ("pred", p) in matched:
            continue
        # Predictions that lie mostly on void or on a crowd of their class are no mistakes.
        excused = overlap.get((_VOID, p), 0) + overlap.get((crowds.get(category), p), 0)
        if excused / area[p] <= 0.5:
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
    return {
        "All": _average(stats, categories),
        "Things": _average(stats, things),
        "Stuff": _average(stats, [i for i in categories if i not in things]),
    }


def _percentages(pq_res: dict) -> dict[str, float]:
    return {
        f"{metric.upper()}{suffix}": 100 * pq_res[group][metric]
        for group, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st"))
        for metric in ("pq", "sq", "rq")
    }


def _print_panoptic_results(pq_res):
    rows = [
        [name, *(100 * pq_res[name][metric] for metric in ("pq", "sq", "rq")), pq_res[name]["n"]]
        for name in ("All", "Things", "Stuff")
    ]
    table = tabulate(
        rows,
        headers=["", "PQ", "SQ", "RQ", "#categories"],
        tablefmt="pipe",
        floatfmt=".3f",
        stralign="center",
        numalign="center",
    )
    logger.info("Panoptic Evaluation Results:\n" + table)


def _main() -> None:
    from detectron2.utils.logger import setup_logger

    parser = argparse.ArgumentParser()
    for name in ("gt-json", "gt-dir", "pred-json", "pred-dir"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    setup_logger(name=__name__)
    with open(args.gt_json) as gt_file, open(args.pred_json) as pred_file:
        gt_json, predictions = json.load(gt_file), json.load(pred_file)["annotations"]
    result = _pq_compute(
        gt_json,
        predictions,
        lambda name: _read_ids(os.path.join(args.gt_dir, name)),
        lambda name: _read_ids(os.path.join(args.pred_dir, name)),
    )
    _print_panoptic_results(result)


if __name__ == "__main__":
    _main()
