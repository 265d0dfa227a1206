"""SemSegEvaluator: recorded numbers, ignored pixels, files, missing classes."""

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from detectron2.evaluation.sem_seg_evaluation import load_image_into_numpy_array
from PIL import Image


@pytest.fixture
def dataset(tmp_path):
    names = []

    def register(name, gt_files, classes, **metadata):
        names.append(name)
        records = [
            {"file_name": f"{i}.jpg", "sem_seg_file_name": str(path)}
            for i, path in enumerate(gt_files)
        ]
        DatasetCatalog.register(name, lambda: records)
        metadata = {"ignore_label": 255, **metadata}
        MetadataCatalog.get(name).set(stuff_classes=classes, **metadata)
        return records

    def write(*maps):
        paths = [tmp_path / f"{i}.png" for i in range(len(maps))]
        for path, labels in zip(paths, maps, strict=True):
            Image.fromarray(np.asarray(labels, dtype=np.uint8)).save(path)
        return paths

    register.write = write
    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def scores(labels, count):
    return torch.nn.functional.one_hot(torch.as_tensor(labels), count).permute(2, 0, 1).float()


def run(evaluator, records, predictions, count):
    evaluator.reset()
    for record, labels in zip(records, predictions, strict=True):
        evaluator.process([record], [{"sem_seg": scores(labels, count)}])
    return evaluator.evaluate()


def test_recorded_numbers(goldens, dataset, tmp_path):
    folder = goldens / "evaluation"
    files = sorted((folder / "sem_gt").iterdir())
    classes = [f"c{i}" for i in range(12)]
    records = dataset("golden_semantic", files, classes)
    predictions = [
        np.asarray(Image.open(folder / "sem_pred" / file.name)).astype(int) for file in files
    ]
    evaluator = SemSegEvaluator("golden_semantic", output_dir=str(tmp_path / "out"))
    results = run(evaluator, records, predictions, 12)["sem_seg"]
    expected = json.loads((folder / "expected.json").read_text())["sem_seg"]
    assert list(results) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(results[name], value, atol=1e-6, err_msg=name)
    stored = torch.load(tmp_path / "out" / "sem_seg_evaluation.pth", weights_only=True)
    assert stored == results
    entries = json.loads((tmp_path / "out" / "sem_seg_predictions.json").read_text())
    first = [e for e in entries if e["file_name"] == "0.jpg"]
    rebuilt = sum(e["category_id"] * mask_util.decode(e["segmentation"]) for e in first)
    np.testing.assert_array_equal(rebuilt, predictions[0])


def test_small_map_by_hand(dataset):
    # Ignored pixels count nowhere; class 2 is only predicted, class 3 nowhere.
    (path,) = dataset.write([[0, 0, 1, 1], [0, 0, 1, 255]])
    records = dataset("by_hand", [path], list("abcd"))
    prediction = np.array([[0, 0, 1, 2], [0, 1, 1, 2]])
    results = run(SemSegEvaluator("by_hand", False), records, [prediction], 4)["sem_seg"]
    iou = [3 / 4, 2 / 4]
    assert results["IoU-a"] == pytest.approx(75)
    assert results["IoU-b"] == pytest.approx(50)
    assert np.isnan(results["IoU-c"]) and np.isnan(results["IoU-d"])
    assert results["mIoU"] == pytest.approx(100 * np.mean(iou))
    assert results["fwIoU"] == pytest.approx(100 * (4 / 7 * iou[0] + 3 / 7 * iou[1]))
    assert results["mACC"] == pytest.approx(100 * (3 / 4 + 2 / 3) / 2)
    assert results["pACC"] == pytest.approx(100 * 5 / 7)
    assert results["ACC-b"] == pytest.approx(200 / 3)
    assert np.isnan(results["ACC-c"])


def slow_boundary(mask, width):
    """Label minus the smallest label around it, where outside the image is 0."""
    height, length = mask.shape
    out = np.zeros_like(mask)
    for y in range(height):
        for x in range(length):
            ys, xs = range(y - width, y + width + 1), range(x - width, x + width + 1)
            inside = ys[0] >= 0 and xs[0] >= 0 and ys[-1] < height and xs[-1] < length
            least = mask[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1].min() if inside else 0
            out[y, x] = mask[y, x] - least
    return out


def test_boundary_against_loop(dataset):
    (path,) = dataset.write(np.zeros((2, 2)))
    dataset("boundary", [path], list("abcd"))
    evaluator = SemSegEvaluator("boundary", False)
    mask = np.random.default_rng(0).integers(2, 4, (60, 80)).astype(np.uint8)
    mask[20:45, 10:60] = 3
    np.testing.assert_array_equal(evaluator._mask_to_boundary(mask), slow_boundary(mask, 2))
    wide = evaluator._mask_to_boundary(mask, dilation_ratio=0.05)
    np.testing.assert_array_equal(wide, slow_boundary(mask, 5))


def test_only_ignored_pixels(dataset):
    (path,) = dataset.write(np.full((4, 4), 255))
    records = dataset("ignored", [path], list("ab"))
    results = run(SemSegEvaluator("ignored", False), records, [np.zeros((4, 4), int)], 2)
    assert np.isnan(results["sem_seg"]["mIoU"]) and np.isnan(results["sem_seg"]["pACC"])


def test_other_ignored_label_and_loader(dataset, caplog):
    (path,) = dataset.write([[0, 1], [1, 0]])
    records = dataset("others", [path], list("ab"), ignore_label=1)
    prediction = np.array([[0, 0], [0, 1]])
    evaluator = SemSegEvaluator("others", False)
    assert run(evaluator, records, [prediction], 2)["sem_seg"]["pACC"] == pytest.approx(50)
    evaluator = SemSegEvaluator("others", False, num_classes=2, ignore_label=255)
    assert caplog.text.count("deprecated") == 2
    assert run(evaluator, records, [prediction], 2)["sem_seg"]["pACC"] == pytest.approx(25)
    flipped = SemSegEvaluator(
        "others",
        False,
        sem_seg_loading_fn=lambda name, dtype: 1 - load_image_into_numpy_array(name, dtype=dtype),
        ignore_label=255,
    )
    assert run(flipped, records, [prediction], 2)["sem_seg"]["pACC"] == pytest.approx(75)
    with pytest.raises(AssertionError):
        SemSegEvaluator("others", num_classes=3)


def test_predictions_are_written_with_the_data_sets_ids(dataset, tmp_path):
    (path,) = dataset.write([[0, 1]])
    ids = {11: 0, 22: 1}
    records = dataset("ids", [path], list("ab"), stuff_dataset_id_to_contiguous_id=ids)
    evaluator = SemSegEvaluator("ids", False, str(tmp_path / "out"))
    run(evaluator, records, [np.array([[1, 1]])], 2)
    (entry,) = json.loads((tmp_path / "out" / "sem_seg_predictions.json").read_text())
    assert entry["category_id"] == 22
    evaluator.reset()
    with pytest.raises(AssertionError, match="Label 2 is not in the metadata"):
        evaluator.encode_json_sem_seg(np.array([[2]]), "0.jpg")


def test_many_classes_have_no_boundary_iou(dataset, caplog):
    (path,) = dataset.write([[0, 1]])
    records = dataset("many", [path], [str(i) for i in range(255)])
    evaluator = SemSegEvaluator("many", False)
    assert "Boundary IoU" in caplog.text
    results = run(evaluator, records, [np.array([[0, 1]])], 255)["sem_seg"]
    assert results["IoU-1"] == pytest.approx(100)
    assert not any(name.startswith("Boundary") for name in results)


def test_load_image_into_numpy_array(dataset):
    (path,) = dataset.write([[3, 4]])
    assert load_image_into_numpy_array(path, dtype=int).dtype == int
    copied = load_image_into_numpy_array(path, copy=True)
    copied[0, 0] = 9
    assert load_image_into_numpy_array(path).tolist() == [[3, 4]]
