"""SemanticEvaluator on label files: recorded numbers, loops, PNGs, submissions, mistakes."""

import json
import zipfile

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from lvt_d2.errors import ConfigError, DatasetError
from lvt_d2.evaluation import SemanticEvaluator

NAME = "tests_label_files"
COLORS = [[200, 30, 30], [30, 200, 30], [30, 30, 200], [200, 200, 30], [30, 200, 200]]


@pytest.fixture
def make_set(tmp_path):
    """Registers label maps of raw values as a set that stores class k as k + 1 and void as 0."""
    names = []

    def make(maps, classes=5, with_labels=True, name=NAME, **meta):
        records = []
        for number, raw in enumerate(maps):
            path = tmp_path / f"{name}_{number:03d}.png"
            Image.fromarray(raw.astype(np.uint8)).save(path)
            record = {"file_name": f"images/{number:03d}.jpg", "image_id": number}
            record |= {"height": raw.shape[0], "width": raw.shape[1]}
            records.append(record | ({"sem_seg_file_name": str(path)} if with_labels else {}))
        DatasetCatalog.register(name, lambda: records)
        class_names = [f"class{k}" for k in range(classes)]
        MetadataCatalog.get(name).set(
            stuff_classes=class_names, ignore_label=255, reduce_zero_label=True, **meta
        )
        names.append(name)
        return records

    yield make
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def evaluate(records, predictions, evaluator):
    evaluator.reset()
    for record, prediction in zip(records, predictions, strict=True):
        evaluator.process([record], [{"sem_seg": prediction}])
    return evaluator.evaluate()


def loop_metrics(maps, predictions, classes):
    """IoU and accuracy of each class, and of all pixels, by counting them one by one."""
    iou, accuracy, right, total = [], [], 0, 0
    for k in range(classes):
        both = either = true = 0
        for raw, predicted in zip(maps, predictions, strict=True):
            for value, label in zip(raw.ravel().tolist(), predicted.ravel().tolist(), strict=True):
                if value == 0:
                    continue
                is_true, is_predicted = value - 1 == k, label == k
                both += is_true and is_predicted
                either += is_true or is_predicted
                true += is_true
        iou.append(both / either if either else float("nan"))
        accuracy.append(both / true if true else float("nan"))
        right, total = right + both, total + true
    return iou, accuracy, right / total


def test_recorded_numbers_of_the_official_evaluation(goldens, make_set):
    recorded = np.load(goldens / "official" / "segdata.npz")
    expected = json.loads((goldens / "official" / "segdata.json").read_text())
    predictions = [torch.from_numpy(p) for p in recorded["metric_preds"]]
    records = make_set(recorded["metric_gts_raw"], classes=150)
    for official in (False, True):
        evaluator = SemanticEvaluator(NAME, zero_if_only_predicted=official)
        results = evaluate(records, predictions, evaluator)["sem_seg"]
        for name, key in (("pACC", "aAcc"), ("mACC", "mAcc"), ("mIoU", "mIoU")):
            assert results[name] == pytest.approx(100 * expected[f"metric_{key}"], rel=1e-12)
        for kind, key in (("ACC", "acc"), ("IoU", "iou")):
            found = [results[f"{kind}-class{k}"] for k in range(150)]
            by_class = recorded[f"metric_{key}_per_class"]
            np.testing.assert_allclose(found, 100 * by_class, rtol=1e-12)


@pytest.mark.parametrize("size", [(9, 13), (1, 20), (17, 1)])
def test_equals_loops(make_set, size):
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, 5, size) for _ in range(3)]  # class 4 has no true pixel
    scores = [torch.from_numpy(rng.normal(size=(5, *size))).float() for _ in maps]
    predictions = [s.numpy().astype(np.float64).argmax(axis=0) for s in scores]
    records = make_set(maps)
    iou, accuracy, overall = loop_metrics(maps, predictions, 5)
    detectron2 = evaluate(records, scores, SemanticEvaluator(NAME))["sem_seg"]
    official = evaluate(records, scores, SemanticEvaluator(NAME, zero_if_only_predicted=True))
    official = official["sem_seg"]
    assert detectron2["mIoU"] == pytest.approx(100 * np.mean(iou[:4]), rel=1e-12)
    assert official["mIoU"] == pytest.approx(100 * np.nanmean(iou), rel=1e-12)
    assert np.isnan(detectron2["IoU-class4"]) and official["IoU-class4"] == 0
    for results in (detectron2, official):
        assert results["mACC"] == pytest.approx(100 * np.nanmean(accuracy), rel=1e-12)
        assert results["pACC"] == pytest.approx(100 * overall, rel=1e-12)
        assert results["IoU-class2"] == pytest.approx(100 * iou[2], rel=1e-12)
        assert results["ACC-class1"] == pytest.approx(100 * accuracy[1], rel=1e-12)
    share = np.bincount(np.concatenate([m[m > 0] - 1 for m in map(np.ravel, maps)]), minlength=4)
    weighted = np.sum(np.array(iou[:4]) * share / share.sum())
    assert detectron2["fwIoU"] == pytest.approx(100 * weighted, rel=1e-12)


def test_scores_and_labels_give_the_same(make_set):
    rng = np.random.default_rng(1)
    maps = [rng.integers(0, 6, (12, 10)) for _ in range(2)]
    scores = [torch.from_numpy(rng.normal(size=(5, 12, 10))).float() for _ in maps]
    records = make_set(maps)
    expected = evaluate(records, scores, SemanticEvaluator(NAME))
    for dtype in (torch.uint8, torch.int32, torch.int64):
        labels = [s.argmax(dim=0).to(dtype) for s in scores]
        assert evaluate(records, labels, SemanticEvaluator(NAME)) == expected


def test_inputs_without_label_file_are_looked_up(make_set):
    maps = [np.full((4, 5), 2), np.full((3, 5), 3)]
    records = make_set(maps)
    keys = ("file_name", "height", "width")
    inputs = [{key: record[key] for key in keys} for record in records]
    predictions = [torch.full(m.shape, 1) for m in maps]
    results = evaluate(inputs, predictions, SemanticEvaluator(NAME))["sem_seg"]
    assert results["pACC"] == pytest.approx(100 * 20 / 35)
    evaluator = SemanticEvaluator(NAME)
    stranger = {"file_name": "elsewhere.jpg"}
    with pytest.raises(DatasetError, match=r"elsewhere\.jpg is not in the data set"):
        evaluate([stranger], predictions[:1], evaluator)


def test_void_only_images_count_nothing(make_set):
    maps = [np.zeros((4, 5), int), np.full((4, 5), 1)]
    records = make_set(maps)
    predictions = [torch.full((4, 5), 3), torch.zeros((4, 5), dtype=torch.uint8)]
    results = evaluate(records, predictions, SemanticEvaluator(NAME))["sem_seg"]
    assert results["mIoU"] == results["pACC"] == 100
    results = evaluate(records[:1], predictions[:1], SemanticEvaluator(NAME))["sem_seg"]
    assert np.isnan(results["mIoU"]) and np.isnan(results["IoU-class0"])


def test_table_names_the_classes(make_set, caplog):
    records = make_set([np.array([[1, 2, 2, 2]])])
    with caplog.at_level("INFO", logger="lvt_d2"):
        evaluate(records, [torch.tensor([[0, 1, 1, 0]])], SemanticEvaluator(NAME))
    rows = [line for line in caplog.text.splitlines() if line.startswith("| class")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells[1] == ["class0", "50.000", "100.000", "25.000"]
    assert cells[2] == ["class1", "66.667", "66.667", "75.000"]
    assert len(cells) == 3


def test_palette_pngs(make_set, tmp_path):
    records = make_set([np.ones((4, 6), int)], stuff_colors=COLORS)
    labels = torch.arange(24).view(4, 6) % 5
    evaluator = SemanticEvaluator(NAME, str(tmp_path / "out"), save_predictions=True)
    evaluate(records, [labels], evaluator)
    with Image.open(tmp_path / "out/sem_seg/000.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), labels)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.array(COLORS)[labels])
    assert not (tmp_path / "out/submission.zip").exists()


def test_palette_without_colors_has_different_ones(make_set, tmp_path):
    records = make_set([np.ones((1, 150), int)], classes=150)
    evaluator = SemanticEvaluator(NAME, str(tmp_path / "out"), save_predictions=True)
    evaluate(records, [torch.arange(150)[None]], evaluator)
    with Image.open(tmp_path / "out/sem_seg/000.png") as image:
        assert len(np.unique(np.asarray(image.convert("RGB"))[0], axis=0)) == 150


@pytest.mark.parametrize("with_labels", [True, False])
def test_submission(make_set, tmp_path, with_labels):
    records = make_set([np.ones((4, 6), int)] * 3, with_labels=with_labels)
    predictions = [torch.full((4, 6), k) for k in (0, 2, 4)]
    evaluator = SemanticEvaluator(
        NAME, str(tmp_path / "out"), submission=True if with_labels else None
    )
    results = evaluate(records, predictions, evaluator)
    assert bool(results) == with_labels
    with zipfile.ZipFile(tmp_path / "out/submission.zip") as archive:
        assert archive.namelist() == ["000.png", "001.png", "002.png"]
        for name, value in zip(archive.namelist(), (1, 3, 5), strict=True):
            with archive.open(name) as file, Image.open(file) as image:
                assert image.mode == "L" and (np.asarray(image) == value).all()
                assert image.size == (6, 4)


def test_mistakes_in_options(make_set, tmp_path):
    make_set([np.ones((2, 2), int)])
    for option in ("save_predictions", "submission"):
        with pytest.raises(ConfigError, match="no output_dir"):
            SemanticEvaluator(NAME, **{option: True})
    make_set([np.ones((2, 2), int)], classes=256, name=NAME + "_many")
    with pytest.raises(ConfigError, match="256 classes.*hold 255 at most"):
        SemanticEvaluator(NAME + "_many", str(tmp_path), save_predictions=True)


def test_wrong_predictions_and_broken_labels_are_named(make_set, tmp_path):
    records = make_set([np.ones((4, 6), int)])
    bare = [{k: v for k, v in records[0].items() if k not in ("height", "width")}]
    for record, bad, message in (
        (bare, torch.zeros(4, 5, dtype=torch.uint8), r"000\.jpg is \(4, 5\), but .* \(4, 6\)"),
        (records, torch.full((4, 6), 7), r"000\.jpg: the predicted labels are 7\.\.7"),
        (records, torch.full((4, 6), -1), r"expected 0\.\.4"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(record, [bad], SemanticEvaluator(NAME))
    Image.fromarray(np.full((4, 6), 9, np.uint8)).save(records[0]["sem_seg_file_name"])
    evaluator = SemanticEvaluator(NAME)
    with pytest.raises(DatasetError, match="values outside the class list: 9"):
        evaluate(records, [torch.zeros(4, 6, dtype=torch.uint8)], evaluator)
    # A failed evaluation leaves nothing behind.
    Image.fromarray(np.full((4, 6), 1, np.uint8)).save(records[0]["sem_seg_file_name"])
    results = evaluate(records, [torch.zeros(4, 6, dtype=torch.uint8)], evaluator)
    assert results["sem_seg"]["mIoU"] == 100
