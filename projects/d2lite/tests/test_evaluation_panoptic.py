"""COCOPanopticEvaluator: recorded numbers, forms of predictions, errors."""

import json
import logging

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator, panoptic_evaluation as module
from PIL import Image


def read_ids(path):
    pixels = np.asarray(Image.open(path)).astype(int)
    return pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]


def metadata_of(categories, name, **extra):
    things = [c["id"] for c in categories if c["isthing"]]
    stuff = [c["id"] for c in categories if not c["isthing"]]
    return MetadataCatalog.get(name).set(
        thing_dataset_id_to_contiguous_id={c: i for i, c in enumerate(things)},
        stuff_dataset_id_to_contiguous_id={c: i for i, c in enumerate([0, *stuff])},
        **extra,
    )


@pytest.fixture
def golden(goldens):
    folder = goldens / "pq"
    gt = json.loads((folder / "gt.json").read_text())
    meta = metadata_of(
        gt["categories"],
        "golden_panoptic",
        panoptic_json=str(folder / "gt.json"),
        panoptic_root=str(folder / "gt"),
    )
    predicted = json.loads((folder / "pred.json").read_text())["annotations"]
    expected = json.loads((folder / "expected.json").read_text())
    pairs = []
    for annotation in predicted:
        segments = []
        for segment in annotation["segments_info"]:
            isthing = segment["category_id"] in meta.thing_dataset_id_to_contiguous_id
            ids = (
                meta.thing_dataset_id_to_contiguous_id
                if isthing
                else meta.stuff_dataset_id_to_contiguous_id
            )
            segments.append(
                {
                    "id": segment["id"],
                    "isthing": isthing,
                    "category_id": ids[segment["category_id"]],
                }
            )
        ids = torch.from_numpy(read_ids(folder / "pred" / annotation["file_name"]))
        record = {"image_id": annotation["image_id"], "file_name": f"x/{annotation['file_name']}"}
        pairs.append((record, {"panoptic_seg": (ids, segments)}))
    yield pairs, expected, gt
    MetadataCatalog.remove("golden_panoptic")


def test_recorded_numbers(golden, tmp_path, caplog):
    pairs, expected, gt = golden
    caplog.set_level(logging.INFO)
    evaluator = COCOPanopticEvaluator("golden_panoptic", str(tmp_path / "out"))
    evaluator.reset()
    for record, output in pairs:
        evaluator.process([record], [output])
    results = evaluator.evaluate()["panoptic_seg"]
    names = [f"{metric}{group}" for group in ("", "_th", "_st") for metric in ("PQ", "SQ", "RQ")]
    assert list(results) == names
    for group, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
        for metric in ("pq", "sq", "rq"):
            found = results[metric.upper() + suffix] / 100
            assert found == pytest.approx(expected[group][metric], abs=1e-12)
    assert "Panoptic Evaluation Results" in caplog.text
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert written["categories"] == gt["categories"]
    assert len(written["annotations"]) == len(pairs)
    assert "isthing" in pairs[0][1]["panoptic_seg"][1][0]  # the model's output is left alone


def test_missing_image_is_an_error(golden):
    evaluator = COCOPanopticEvaluator("golden_panoptic")
    evaluator.reset()
    evaluator.process(*([x] for x in golden[0][0]))
    with pytest.raises(Exception, match="no prediction for the image with id: 1"):
        evaluator.evaluate()


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([], "segment with ID 5 is presented in PNG"),
        ([{"id": 5, "category_id": 1}, {"id": 6, "category_id": 1}], r"IDs \[6\] are presented"),
        ([{"id": 5, "category_id": 77}], "unknown category_id 77"),
    ],
)
def test_disagreeing_predictions(segments, message):
    gt = {
        "categories": [{"id": 1, "isthing": 1}],
        "annotations": [{"image_id": 3, "file_name": "a", "segments_info": []}],
    }
    prediction = {"image_id": 3, "file_name": "b", "segments_info": segments}
    ids = np.full((2, 3), 5)
    with pytest.raises(KeyError, match=message):
        module._pq_compute(gt, [prediction], lambda name: ids, lambda name: ids)


def test_map_without_list_of_segments(tmp_path):
    categories = [{"id": 10, "isthing": 1}, {"id": 20, "isthing": 0}]
    gt = np.array([[1, 1, 2, 2], [1, 1, 2, 0]])
    areas = [{"id": 1, "category_id": 10, "area": 4}, {"id": 2, "category_id": 20, "area": 3}]
    annotation = {"image_id": 1, "file_name": "a.png", "segments_info": areas}
    (tmp_path / "gt.json").write_text(
        json.dumps({"categories": categories, "annotations": [annotation]})
    )
    Image.fromarray(np.stack([gt, 0 * gt, 0 * gt], -1).astype(np.uint8)).save(tmp_path / "a.png")
    metadata_of(
        categories,
        "divided",
        label_divisor=1000,
        panoptic_json=str(tmp_path / "gt.json"),
        panoptic_root=str(tmp_path),
    )
    evaluator = COCOPanopticEvaluator("divided")
    evaluator.reset()
    pred = torch.tensor([[1, 1, 1000, 1000], [1, 1, 1000, -1]])
    before = pred.clone()
    evaluator.process([{"image_id": 1, "file_name": "a.jpg"}], [{"panoptic_seg": (pred, None)}])
    assert torch.equal(pred, before)
    results = evaluator.evaluate()["panoptic_seg"]
    assert results["PQ"] == pytest.approx(100)
    MetadataCatalog.remove("divided")


def test_no_class_at_all():
    result = module._pq_compute({"categories": [], "annotations": []}, [], None, None)
    assert result["All"]["n"] == 0 and np.isnan(result["All"]["pq"])


def test_crowds_and_void_by_hand():
    """Predictions mostly on void or on a crowd of their class are no false positives."""
    gt_ids = np.array([[0] * 4, [1] * 4, [2] * 4, [3] * 4])
    gt = {
        "categories": [{"id": 1, "isthing": 1}, {"id": 2, "isthing": 1}],
        "annotations": [
            {
                "image_id": 0,
                "file_name": "a",
                "segments_info": [
                    {"id": 1, "category_id": 1, "area": 4, "iscrowd": 1},
                    {"id": 2, "category_id": 2, "area": 4, "iscrowd": 0},
                    {"id": 3, "category_id": 1, "area": 4, "iscrowd": 0},
                ],
            }
        ],
    }

    def pq(pred_ids, labels):
        segments = [{"id": i, "category_id": c} for i, c in labels.items()]
        prediction = {"image_id": 0, "file_name": "b", "segments_info": segments}
        return module._pq_compute(
            gt, [prediction], lambda name: gt_ids, lambda name: np.array(pred_ids)
        )["All"]

    # 7 is on void, 8 on the crowd of its class, 9 matches 3 of 4 pixels and one of void.
    rows = [[7, 7, 7, 9], [8, 8, 8, 8], [0, 0, 0, 0], [9, 9, 9, 0]]
    result = pq(rows, {7: 2, 8: 1, 9: 1})
    assert result["n"] == 2
    assert result["sq"] == pytest.approx((3 / 4 + 0) / 2)  # class 2 has a miss only
    assert result["rq"] == pytest.approx(0.5)
    # On the crowd of another class it is one.
    rows = [[0] * 4, [8] * 4, [0] * 4, [9] * 4]
    assert pq(rows, {8: 2, 9: 1})["pq"] == pytest.approx(0.5)
    assert pq(rows, {8: 1, 9: 1})["pq"] == pytest.approx(0.5)
