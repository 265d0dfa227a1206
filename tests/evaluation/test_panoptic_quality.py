"""Panoptic quality against recorded numbers, and against loops over pixels and segments."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from lvt_d2.data import read_panoptic_ids
from lvt_d2.evaluation import PanopticQuality, panoptic_quality

TWO = [{"id": 1, "isthing": 1}, {"id": 2, "isthing": 0}]


def read_json(path):
    return json.loads(path.read_text())


def golden_images(goldens):
    folder = goldens / "pq"
    gt = read_json(folder / "gt.json")
    predictions = {a["image_id"]: a for a in read_json(folder / "pred.json")["annotations"]}
    for annotation in gt["annotations"]:
        prediction = predictions[annotation["image_id"]]
        yield (
            read_panoptic_ids(folder / "gt" / annotation["file_name"]),
            annotation["segments_info"],
            read_panoptic_ids(folder / "pred" / prediction["file_name"]),
            prediction["segments_info"],
        )


def test_equals_recorded_numbers(goldens):
    categories = read_json(goldens / "pq" / "gt.json")["categories"]
    expected = read_json(goldens / "pq" / "expected.json")
    quality = PanopticQuality(categories)
    for image in golden_images(goldens):
        quality.update(*image)
    summary = quality.summary()
    for group in ("All", "Things", "Stuff"):
        assert summary[group] == pytest.approx(expected[group], abs=1e-12)
    per_class = quality.per_class()
    assert {str(c) for c in per_class} == set(expected["per_class"])
    for category, values in expected["per_class"].items():
        for metric, value in values.items():
            assert per_class[int(category)][metric] == pytest.approx(value, abs=1e-12)


def test_equals_official_numbers_on_real_images(goldens, coco_sample):
    recorded = read_json(goldens / "official" / "panextra.json")
    maps = np.load(goldens / "official" / "panextra.npz")
    gt = read_json(coco_sample / "panoptic.json")
    predictions = {a["image_id"]: a for a in recorded["pq_pred_json"]["annotations"]}
    quality = PanopticQuality(gt["categories"])
    for annotation in gt["annotations"]:
        image_id = annotation["image_id"]
        segments = predictions[image_id]["segments_info"]
        ids = maps[f"pq_pred_{image_id}"]
        listed = [s["id"] for s in segments]
        quality.update(
            read_panoptic_ids(coco_sample / "panoptic" / annotation["file_name"]),
            annotation["segments_info"],
            np.where(np.isin(ids, listed), ids, 0),
            segments,
        )
    summary = quality.summary()
    for group, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
        for metric in ("pq", "sq", "rq"):
            found = 100 * summary[group][metric]
            expected = recorded["pq_eval"][metric.upper() + suffix]
            assert found == pytest.approx(expected, abs=1e-10)


def slow_counts(gt_ids, gt_segments, pred_ids, pred_segments):
    """[sum of IoU, TP, FP, FN] by category, pixel by pixel and pair by pair."""
    counts = {c: [0.0, 0, 0, 0] for c in (1, 2)}
    pixels = list(zip(gt_ids.ravel().tolist(), pred_ids.ravel().tolist(), strict=True))
    matched_gt, matched_pred = set(), set()
    for g in gt_segments:
        for p in pred_segments:
            if g["iscrowd"] or g["category_id"] != p["category_id"]:
                continue
            both = sum(pair == (g["id"], p["id"]) for pair in pixels)
            either = sum(
                a == g["id"] or (b == p["id"] and a != 0) for a, b in pixels
            )  # what is predicted on void counts nowhere
            if either and both / either > 0.5:
                counts[g["category_id"]][0] += both / either
                counts[g["category_id"]][1] += 1
                matched_gt.add(g["id"])
                matched_pred.add(p["id"])
    for g in gt_segments:
        if not g["iscrowd"] and g["id"] not in matched_gt:
            counts[g["category_id"]][3] += 1
    for p in pred_segments:
        if p["id"] in matched_pred:
            continue
        crowds = [g for g in gt_segments if g["iscrowd"] and g["category_id"] == p["category_id"]]
        excusing = {0} | {g["id"] for g in crowds[-1:]}
        under = Counter(a for a, b in pixels if b == p["id"])
        if sum(under[i] for i in excusing) / sum(under.values()) <= 0.5:
            counts[p["category_id"]][2] += 1
    return counts


@st.composite
def maps(draw):
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 6))

    def one(values):
        cells = draw(st.lists(values, min_size=rows * columns, max_size=rows * columns))
        return np.array(cells).reshape(rows, columns)

    gt, pred = one(st.sampled_from([0, 4, 5, 900])), one(st.sampled_from([0, 4, 6, 70000]))
    gt_segments = [
        {"id": i, "category_id": draw(st.integers(1, 2)), "iscrowd": draw(st.integers(0, 1))}
        for i in np.unique(gt).tolist()
        if i and draw(st.integers(0, 4))  # now and then an id that is not listed
    ]
    pred_segments = [
        {"id": i, "category_id": draw(st.integers(1, 2))} for i in np.unique(pred).tolist() if i
    ]
    return gt, gt_segments, pred, pred_segments


@settings(max_examples=150, deadline=None)
@given(maps())
def test_equals_loops(image):
    quality = PanopticQuality(TWO)
    quality.update(*image)
    expected = slow_counts(*image)
    for row, category in enumerate((1, 2)):
        iou, tp, fp, fn = expected[category]
        assert quality.iou[row] == pytest.approx(iou, abs=1e-12)
        assert quality.true_positives[row] == tp
        assert quality.false_positives[row] == fp
        assert quality.false_negatives[row] == fn


def test_merge_equals_one_accumulator(goldens):
    categories = read_json(goldens / "pq" / "gt.json")["categories"]
    whole, parts = PanopticQuality(categories), [PanopticQuality(categories) for _ in range(3)]
    for number, image in enumerate(golden_images(goldens)):
        whole.update(*image)
        parts[number % 3].update(*image)
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    for group, values in whole.summary().items():
        assert parts[0].summary()[group] == pytest.approx(values, abs=1e-14)
    with pytest.raises(ValueError, match="different categories"):
        whole.merge(PanopticQuality(TWO))


def test_numbers_by_hand():
    gt = np.array([[1, 1, 1, 1], [2, 2, 2, 2]])
    pred = np.array([[8, 8, 8, 0], [8, 9, 9, 9]])
    segments = [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 2}]
    found = [{"id": 8, "category_id": 1}, {"id": 9, "category_id": 1}]
    result = panoptic_quality(gt, segments, pred, found, TWO)
    assert result["per_class"][1] == pytest.approx(
        {"pq": 0.6 / 1.5, "sq": 0.6, "rq": 1 / 1.5, "tp": 1, "fp": 1, "fn": 0}
    )
    assert result["per_class"][2] == {"pq": 0, "sq": 0, "rq": 0, "tp": 0, "fp": 0, "fn": 1}
    assert result["All"]["pq"] == pytest.approx(0.2) and result["All"]["n"] == 2
    assert result["Things"]["pq"] == pytest.approx(0.4)
    assert result["Stuff"]["pq"] == 0


def test_area_of_the_json_is_taken():
    """As in COCO's evaluation, where a PNG and its JSON differ."""
    ids, segments = np.ones((2, 2), int), [{"id": 1, "category_id": 1, "area": 5}]
    result = panoptic_quality(ids, segments, ids, [{"id": 1, "category_id": 1}], TWO)
    assert result["All"]["sq"] == pytest.approx(4 / 5)


@pytest.mark.parametrize("shape", [(0, 0), (3, 4)])
def test_nothing_at_all(shape):
    void = np.zeros(shape, dtype=np.int32)
    result = panoptic_quality(void, [], void, [], TWO)
    assert result["per_class"] == {}
    for group in ("All", "Things", "Stuff"):
        assert result[group]["n"] == 0 and np.isnan(result[group]["pq"])
    missed = panoptic_quality(void, [{"id": 3, "category_id": 1, "area": 9}], void, [], TWO)
    assert missed["per_class"][1]["fn"] == 1 and missed["All"]["pq"] == 0


@pytest.mark.parametrize(
    ("pred", "segments", "message"),
    [
        (np.ones((3, 2), int), [{"id": 1, "category_id": 1}], "prediction is 2x3 pixels"),
        (np.full((2, 2), 4), [], r"pixels of the ids \[4\]"),
        (np.full((2, 2), 4), [{"id": i, "category_id": 1} for i in (4, 5)], r"lists the ids \[5\]"),
        (np.full((2, 2), 4), [{"id": 4, "category_id": 1}] * 2, "expected different ids"),
        (np.full((2, 2), 4), [{"id": 4, "category_id": 99}], "category 99"),
    ],
)
def test_contradictions_are_named(pred, segments, message):
    with pytest.raises(ValueError, match=message):
        panoptic_quality(np.zeros((2, 2), int), [], pred, segments, TWO)
