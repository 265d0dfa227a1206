"""FastCOCOeval against pycocotools' own, all arrays and the summary."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lvt_d2.evaluation.coco_ap import FastCOCOeval


def index(images, annotations, classes):
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i} for i in range(images)],
        "categories": [{"id": c} for c in range(1, classes + 1)],
        "annotations": [{"id": n, **a} for n, a in enumerate(annotations, start=1)],
    }
    coco.createIndex()
    return coco


def some(rng, images, classes, per_image, scores):
    annotations = []
    for image in range(images):
        for _ in range(int(rng.integers(0, per_image + 1))):
            x, y, w, h = (float(v) for v in (*rng.integers(0, 60, 2), *rng.integers(5, 120, 2)))
            entry = {"image_id": image, "category_id": int(rng.integers(1, classes + 1))}
            entry |= {"bbox": [x, y, w, h], "area": w * h, "iscrowd": int(rng.random() < 0.1)}
            if scores:  # few different ones, so that many are equal
                entry |= {"score": float(rng.integers(0, 6)) / 5, "iscrowd": 0}
            annotations.append(entry)
    return annotations


def evaluated(kind, truth, found, use_classes=True):
    evaluation = kind(truth, found, "bbox")
    evaluation.params.useCats = int(use_classes)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("use_classes", [True, False])
@pytest.mark.parametrize(
    ("seed", "objects", "detections"), [(0, 4, 8), (1, 4, 60), (2, 0, 5), (3, 5, 0), (4, 1, 150)]
)
def test_all_arrays(seed, objects, detections, use_classes):
    rng = np.random.default_rng(seed)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        truth = index(12, some(rng, 12, 4, objects, scores=False), 5)
        found = index(12, some(rng, 12, 4, detections, scores=True), 5)
        fast, slow = (evaluated(k, truth, found, use_classes) for k in (FastCOCOeval, COCOeval))
    for name in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(fast.eval[name], slow.eval[name], err_msg=name)
    assert fast.eval["counts"] == slow.eval["counts"]
    np.testing.assert_array_equal(fast.stats, slow.stats)
    lines = [line for line in printed.getvalue().splitlines() if line.startswith(" Average")]
    assert len(lines) == 24 and lines[:12] == lines[12:]
