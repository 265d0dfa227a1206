"""Panoptic quality (Kirillov et al., 2019, section 4) by the rules of COCO's evaluation."""

from collections.abc import Sequence
from itertools import chain

import numpy as np

_VOID_ID = 0
_GROUPS = ("All", "Things", "Stuff")
_MATCH_IOU = 0.5  # section 4.1: above it, a segment has at most one match
_EXCUSED = 0.5  # a prediction with more of its area on void or a crowd is no false positive


class PanopticQuality:
    """Sums over images from which PQ, SQ and RQ of every class follow.

    Args:
        categories: COCO panoptic categories, of which ``id`` and ``isthing`` are read.
    """

    def __init__(self, categories: Sequence[dict]):
        self.category_ids = np.array([c["id"] for c in categories], dtype=np.int64)
        self.is_thing = np.array([bool(c["isthing"]) for c in categories], dtype=bool)
        self._row = {c: i for i, c in enumerate(self.category_ids.tolist())}
        self.iou = np.zeros(len(self._row))
        self.true_positives = np.zeros(len(self._row), dtype=np.int64)
        self.false_positives = np.zeros(len(self._row), dtype=np.int64)
        self.false_negatives = np.zeros(len(self._row), dtype=np.int64)

    def update(
        self,
        gt_ids: np.ndarray,
        gt_segments: Sequence[dict],
        pred_ids: np.ndarray,
        pred_segments: Sequence[dict],
    ) -> None:
        """Add one image.

        Segments are dicts of ``id`` and ``category_id``; those of the ground truth may have
        ``iscrowd``, and an ``area`` that is taken instead of the map's, as COCO's evaluation does.
        Where several crowds share a class, only the last one excuses predictions, as there.

        Args:
            gt_ids: (H, W) integers; 0 is void.
            gt_segments: segments of ``gt_ids``; its other ids count as nothing.
            pred_ids: (H, W) integers; 0 is void.
            pred_segments: all segments of ``pred_ids``.

        Raises:
            ValueError: the maps' sizes differ, a prediction's map and its segments disagree, or a
                category is unknown.
        """
        if gt_ids.shape != pred_ids.shape:
            raise ValueError(
                f"the prediction is {_size(pred_ids)} but the ground truth {_size(gt_ids)}; "
                "predict at the image's own size (inputs need its height and width)"
            )
        gt_rows, pred_rows = self._rows(gt_segments), self._rows(pred_segments)
        overlaps = _overlaps(
            gt_ids,
            [s["id"] for s in gt_segments],
            pred_ids,
            [s["id"] for s in pred_segments],
        )
        _check_prediction(overlaps, pred_ids, pred_segments)
        is_crowd = np.array([bool(s.get("iscrowd", 0)) for s in gt_segments], dtype=bool)
        inside, on_void = overlaps[1:-1, 1:-1], overlaps[0, 1:-1]
        gt_area = overlaps[1:-1].sum(axis=1)
        gt_area = np.array([s.get("area", a) for s, a in zip(gt_segments, gt_area, strict=True)])
        pred_area = overlaps[:, 1:-1].sum(axis=0)

        union = gt_area.reshape(-1, 1) + pred_area - inside - on_void
        comparable = (gt_rows[:, None] == pred_rows) & ~is_crowd[:, None] & (inside > 0)
        iou = np.divide(inside, union, out=np.zeros(inside.shape), where=comparable)
        matches = iou > _MATCH_IOU
        gt_index, pred_index = np.nonzero(matches)
        np.add.at(self.iou, gt_rows[gt_index], iou[gt_index, pred_index])
        np.add.at(self.true_positives, gt_rows[gt_index], 1)
        np.add.at(self.false_negatives, gt_rows[~matches.any(axis=1) & ~is_crowd], 1)

        crowd_of = np.full(len(self._row), -1)
        crowd_of[gt_rows[is_crowd]] = np.flatnonzero(is_crowd)
        crowd = crowd_of[pred_rows]
        on_crowd = np.zeros(len(pred_rows))
        has_crowd = crowd >= 0
        on_crowd[has_crowd] = inside[crowd[has_crowd], np.flatnonzero(has_crowd)]
        wrong = ~matches.any(axis=0) & ~((on_void + on_crowd) / pred_area > _EXCUSED)
        np.add.at(self.false_positives, pred_rows[wrong], 1)

    def _rows(self, segments: Sequence[dict]) -> np.ndarray:
        try:
            return np.array([self._row[s["category_id"]] for s in segments], dtype=np.int64)
        except KeyError as error:
            raise ValueError(
                f"a segment has the category {error}, which is none of the {len(self._row)} of "
                "this data set; the model and the set's metadata disagree on the classes"
            ) from None

    def merge(self, other: "PanopticQuality") -> None:
        """Add the images of another accumulator of the same categories."""
        if self.category_ids.tolist() != other.category_ids.tolist():
            raise ValueError("accumulators of different categories can't be merged")
        for name in ("iou", "true_positives", "false_positives", "false_negatives"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def per_class(self) -> dict[int, dict[str, float]]:
        """By category id: ``pq``, ``sq``, ``rq`` as fractions, and ``tp``, ``fp``, ``fn``.

        Only classes with a segment in ground truth or predictions.
        """
        pq, sq, rq = self._values()
        counts = (self.true_positives, self.false_positives, self.false_negatives)
        columns = zip(
            self.category_ids.tolist(),
            *(column.tolist() for column in (pq, sq, rq, *counts)),
            strict=True,
        )
        names = ("pq", "sq", "rq", "tp", "fp", "fn")
        present = self._present().tolist()
        return {
            row[0]: dict(zip(names, row[1:], strict=True))
            for row, is_present in zip(columns, present, strict=True)
            if is_present
        }

    def summary(self) -> dict[str, dict[str, float]]:
        """Means over classes, for "All", "Things" and "Stuff".

        Each has ``pq``, ``sq``, ``rq`` as fractions, NaN without classes, and ``n``, the number of
        classes that occur.
        """
        selections = (np.ones_like(self.is_thing), self.is_thing, ~self.is_thing)
        result = {}
        for name, selected in zip(_GROUPS, selections, strict=True):
            selected = selected & self._present()
            count = int(selected.sum())
            means = (v[selected].mean() if count else np.nan for v in self._values())
            result[name] = dict(zip(("pq", "sq", "rq"), map(float, means), strict=True))
            result[name]["n"] = count
        return result

    def _present(self) -> np.ndarray:
        return self.true_positives + self.false_positives + self.false_negatives > 0

    def _values(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """PQ, SQ and RQ of all classes; 0 of those that don't occur."""
        total = self.true_positives + 0.5 * self.false_positives + 0.5 * self.false_negatives
        total = np.maximum(total, 0.5)
        sq = self.iou / np.maximum(self.true_positives, 1)
        return self.iou / total, sq, self.true_positives / total


def panoptic_quality(
    gt_ids: np.ndarray,
    gt_segments: Sequence[dict],
    pred_ids: np.ndarray,
    pred_segments: Sequence[dict],
    categories: Sequence[dict],
) -> dict[str, dict]:
    """Panoptic quality of one image; arguments as of `PanopticQuality` and its ``update``.

    Returns:
        `PanopticQuality.summary`, and `PanopticQuality.per_class` as ``"per_class"``.
    """
    quality = PanopticQuality(categories)
    quality.update(gt_ids, gt_segments, pred_ids, pred_segments)
    return {**quality.summary(), "per_class": quality.per_class()}


def _size(ids: np.ndarray) -> str:
    return "x".join(map(str, ids.shape[::-1])) + " pixels"


def _places(values: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Place of each value in ``ids``, counted from 1; 0 for void, ``len(ids) + 1`` for others."""
    if not len(ids):
        return (values != _VOID_ID).astype(np.int64)
    order = np.argsort(ids)
    ordered = np.asarray(ids)[order]
    nearest = np.searchsorted(ordered, values).clip(max=len(ids) - 1)
    places = np.where(ordered[nearest] == values, order[nearest] + 1, len(ids) + 1)
    return np.where(values == _VOID_ID, 0, places)


def _overlaps(
    gt_ids: np.ndarray, gt_list: Sequence[int], pred_ids: np.ndarray, pred_list: Sequence[int]
) -> np.ndarray:
    """Pixels shared by each segment of two maps.

    Both maps are cut into runs in which neither changes; label maps have a few thousand of them
    for some 100,000 pixels, and only these are looked up and counted.

    Returns:
        (G + 2, P + 2) int64: the first row and column are void, the last ones unlisted ids.
    """
    gt, pred = gt_ids.ravel(), pred_ids.ravel()
    if not gt.size:
        return np.zeros((len(gt_list) + 2, len(pred_list) + 2), dtype=np.int64)
    changes = (gt[1:] != gt[:-1]) | (pred[1:] != pred[:-1])
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    lengths = np.diff(starts, append=gt.size)
    columns = len(pred_list) + 2
    joint = _places(gt[starts], gt_list) * columns + _places(pred[starts], pred_list)
    # Weights are summed in float64, exact up to 2**53 pixels.
    counts = np.bincount(joint, weights=lengths, minlength=(len(gt_list) + 2) * columns)
    return counts.astype(np.int64).reshape(-1, columns)


def _check_prediction(
    overlaps: np.ndarray, pred_ids: np.ndarray, pred_segments: Sequence[dict]
) -> None:
    listed = [s["id"] for s in pred_segments]
    if len(set(chain(listed, [_VOID_ID]))) != len(listed) + 1:
        raise ValueError(
            f"segment ids of the prediction are {listed}; expected different ids other than "
            f"{_VOID_ID}, which means void"
        )
    if overlaps[:, -1].any():
        unlisted = sorted(set(np.unique(pred_ids).tolist()) - {_VOID_ID, *listed})
        raise ValueError(
            f"the predicted map has pixels of the ids {unlisted[:5]}, which its segments_info does "
            "not list"
        )
    missing = np.flatnonzero(overlaps[:, 1:-1].sum(axis=0) == 0)
    if missing.size:
        raise ValueError(
            f"the predicted segments_info lists the ids {[listed[i] for i in missing[:5]]}, of "
            "which the map has no pixel"
        )
