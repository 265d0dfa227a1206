"""SemanticEvaluator: against SemSegEvaluator on written labels, void, errors."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from PIL import Image

from lvt_d2.evaluation import SemanticEvaluator


def run(evaluator, dataset, records, shift):
    evaluator.reset()
    for index, record in enumerate(records):
        evaluator.process([record], [{"sem_seg": dataset.logits(index, shift)}])
    return evaluator.evaluate()["sem_seg"]


@pytest.fixture
def written_labels(panoptic_set, tmp_path):
    """A second copy of the labels, as SemSegEvaluator needs it."""
    records = panoptic_set.dicts
    for index, record in enumerate(records):
        labels = np.full(panoptic_set.maps[index].shape, 255, dtype=np.uint8)
        for segment in record["segments_info"]:
            where = panoptic_set.maps[index] == segment["id"]
            labels[where] = 0 if segment["isthing"] else segment["category_id"]
        path = tmp_path / f"labels{index}.png"
        Image.fromarray(labels).save(path)
        record["sem_seg_file_name"] = str(path)
    DatasetCatalog.register("tests_labels", lambda: records)
    MetadataCatalog.get("tests_labels").set(
        stuff_classes=panoptic_set.metadata.stuff_classes, ignore_label=255
    )
    yield records
    DatasetCatalog.remove("tests_labels")
    MetadataCatalog.remove("tests_labels")


@pytest.mark.parametrize("shift", [0, 5])
def test_equals_sem_seg_evaluator(panoptic_set, written_labels, shift):
    ours = run(SemanticEvaluator(panoptic_set.name), panoptic_set, panoptic_set.dicts, shift)
    theirs = run(SemSegEvaluator("tests_labels"), panoptic_set, written_labels, shift)
    theirs = {k: v for k, v in theirs.items() if not k.startswith(("Boundary", "min("))}
    assert list(ours) == list(theirs)
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), atol=1e-9)
    assert (ours["mIoU"] == pytest.approx(100)) == (shift == 0 and ours["IoU-things"] == 100)


def test_written_results(panoptic_set, tmp_path):
    evaluator = SemanticEvaluator(panoptic_set.name, output_dir=str(tmp_path / "new"))
    results = run(evaluator, panoptic_set, panoptic_set.dicts, shift=5)
    written = json.loads((tmp_path / "new" / "sem_seg_evaluation.json").read_text())
    assert written["sem_seg"] == results
    assert written["classes"] == ["things", "grass", "sky"]
    valid = sum((ids != 0).sum() for ids in panoptic_set.maps)
    assert np.sum(written["confusion"]) == valid


def test_only_things_and_void(panoptic_set):
    evaluator = SemanticEvaluator(panoptic_set.name)
    evaluator.reset()
    assert np.isnan(list(evaluator.evaluate()["sem_seg"].values())).all()


def test_wrong_shape_is_named(panoptic_set):
    evaluator = SemanticEvaluator(panoptic_set.name)
    scores = panoptic_set.logits(0)
    for bad in (scores[:2], scores[:, 1:], scores.argmax(dim=0)[1:], scores.sum(dim=0)):
        with pytest.raises(ValueError, match=r"0000\.jpg is .*expected \(3, height, width\)"):
            evaluator.process([panoptic_set.dicts[0]], [{"sem_seg": bad}])


def test_set_without_labels(test_set, panoptic_set):
    evaluator = SemanticEvaluator(test_set.name)
    evaluator.process([test_set.dicts[0]], [{"sem_seg": panoptic_set.logits(0)}])
    assert evaluator.evaluate() == {}
