"""pycocotools' evaluation with its last step, precision over recall, on whole arrays."""

import numpy as np
from pycocotools.cocoeval import COCOeval


class FastCOCOeval(COCOeval):
    """The numbers of `COCOeval`, bit by bit, in less time."""

    def computeIoU(self, imgId, catId):  # noqa: N802, N803  (pycocotools' names)
        """IoUs of an image's detections and objects of a class; [] where there are none."""
        if self.params.useCats and not (self._gts[imgId, catId] and self._dts[imgId, catId]):
            return []
        return super().computeIoU(imgId, catId)

    def accumulate(self, p=None) -> None:
        """Precision and recall of all classes, areas and limits, into ``self.eval``.

        Args:
            p: parameters; None for those of the evaluation.
        """
        params = self.params if p is None else p
        limits, areas, images = params.maxDets, self._paramsEval.areaRng, self._paramsEval.imgIds
        classes = params.catIds if params.useCats else [-1]
        shape = (len(params.iouThrs), len(classes), len(params.areaRng), len(limits))
        precision = -np.ones((shape[0], len(params.recThrs), *shape[1:]))
        scores, recall = -np.ones_like(precision), -np.ones(shape)
        for k in range(len(classes)):
            for a in range(len(params.areaRng)):
                start = (k * len(areas) + a) * len(images)
                found = [e for e in self.evalImgs[start : start + len(images)] if e is not None]
                objects = sum(int((e["gtIgnore"] == 0).sum()) for e in found)
                if not objects:
                    continue
                curves = _Curves(found, objects, params.recThrs)
                for m, limit in enumerate(limits):
                    at = curves.up_to(limit)
                    precision[:, :, k, a, m], scores[:, :, k, a, m], recall[:, k, a, m] = at
        self.eval = {
            "params": params,
            "counts": [shape[0], len(params.recThrs), *shape[1:]],
            "precision": precision,
            "recall": recall,
            "scores": scores,
        }


class _Curves:
    """Detections of one class and area range in all images.

    Args:
        found: what `COCOeval.evaluateImg` gave for the images.
        objects: true ones that count.
        recalls: thresholds at which precision is read off.
    """

    def __init__(self, found: list[dict], objects: int, recalls: np.ndarray):
        self._objects, self._recalls = objects, recalls
        self._scores = np.concatenate([e["dtScores"] for e in found])
        # Detections come by score; this is their place in their image.
        self._places = np.concatenate([np.arange(len(e["dtScores"])) for e in found])
        matched = np.concatenate([e["dtMatches"] for e in found], axis=1) != 0
        ignored = np.concatenate([e["dtIgnore"] for e in found], axis=1).astype(bool)
        self._right, self._wrong = matched & ~ignored, ~matched & ~ignored
        self._last: tuple[int, tuple] | None = None

    def up_to(self, limit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Precision and score (T, R) at the recall thresholds, and recall (T,).

        Only the ``limit`` best detections of each image count.
        """
        chosen = np.flatnonzero(self._places < limit)
        if self._last is None or self._last[0] != len(chosen):
            self._last = (len(chosen), self._read_off(chosen))
        return self._last[1]

    def _read_off(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        thresholds, count = len(self._right), len(chosen)
        precision = np.zeros((thresholds, len(self._recalls)))
        scores = np.zeros_like(precision)
        if not count:
            return precision, scores, np.zeros(thresholds)
        # Among equal scores the order of the images decides, as in pycocotools.
        order = chosen[np.argsort(-self._scores[chosen], kind="mergesort")]
        right = np.cumsum(self._right[:, order], axis=1, dtype=float)
        wrong = np.cumsum(self._wrong[:, order], axis=1, dtype=float)
        recall = right / self._objects
        # spacing keeps 0 / 0 from happening, where the first ones are ignored
        exact = right / (wrong + right + np.spacing(1))
        highest = np.maximum.accumulate(exact[:, ::-1], axis=1)[:, ::-1]
        ordered_scores = self._scores[order]
        for t in range(thresholds):
            places = np.searchsorted(recall[t], self._recalls, side="left")
            reached = places < count
            precision[t, reached] = highest[t, places[reached]]
            scores[t, reached] = ordered_scores[places[reached]]
        return precision, scores, recall[:, -1]
