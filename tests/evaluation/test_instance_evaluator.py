"""InstanceEvaluator: against COCOEvaluator, recorded numbers, crowds, nothing at all."""

import json
import logging

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from detectron2.utils.logger import setup_logger

from lvt_d2.data import register_panoptic_dataset
from lvt_d2.errors import ConfigError
from lvt_d2.evaluation import InstanceEvaluator


def run(evaluator, dataset, shift=0):
    evaluator.reset()
    for index, record in enumerate(dataset.dicts):
        evaluator.process([record], [{"instances": dataset.detect(index, shift)}])
    return evaluator.evaluate()


def assert_same(actual, expected, tolerance=1e-9):
    assert list(actual) == list(expected)
    for task in expected:
        assert list(actual[task]) == list(expected[task])
        for name, value in expected[task].items():
            value = np.nan if value is None else value
            np.testing.assert_allclose(actual[task][name], value, atol=tolerance, err_msg=name)


@pytest.fixture
def coco_json(panoptic_set, tmp_path):
    """The set's things in COCO's instance format, registered under another name."""
    content = json.loads((panoptic_set.root / "panoptic.json").read_text())
    annotations = []
    for index, annotation in enumerate(content["annotations"]):
        for segment in annotation["segments_info"]:
            if segment["category_id"] in (3, 7, 12):
                mask = np.asfortranarray(panoptic_set.maps[index] == segment["id"]).astype(np.uint8)
                rle = mask_util.encode(np.asfortranarray(mask))
                rle["counts"] = rle["counts"].decode()
                entry = {k: segment[k] for k in ("category_id", "iscrowd", "area", "bbox")}
                entry |= {"id": len(annotations) + 1, "image_id": annotation["image_id"]}
                annotations.append(entry | {"segmentation": rle})
    things = sorted((c for c in content["categories"] if c["isthing"]), key=lambda c: c["id"])
    path = tmp_path / "instances.json"
    path.write_text(
        json.dumps({"images": content["images"], "annotations": annotations, "categories": things})
    )
    meta = panoptic_set.metadata
    MetadataCatalog.get("tests_instances").set(
        json_file=str(path),
        thing_classes=meta.thing_classes,
        thing_dataset_id_to_contiguous_id=meta.thing_dataset_id_to_contiguous_id,
    )
    yield "tests_instances"
    MetadataCatalog.remove("tests_instances")


@pytest.mark.parametrize("shift", [0, 2])
def test_equals_coco_evaluator(panoptic_set, coco_json, shift):
    ours = run(InstanceEvaluator(panoptic_set.name), panoptic_set, shift)
    theirs = run(COCOEvaluator(coco_json, tasks=("bbox", "segm")), panoptic_set, shift)
    assert_same(ours, theirs)
    assert np.isnan(ours["segm"]["AP-bird"])
    if not shift:
        assert ours["segm"]["AP"] == pytest.approx(100)
        assert ours["bbox"]["AP"] < 100


def test_equals_recorded_numbers(goldens, coco_sample):
    """The recorded instances are the thing segments of the two real images."""
    folder = goldens / "evaluation"
    name = "tests_coco_sample_instances"
    register_panoptic_dataset(
        name,
        str(coco_sample / "panoptic.json"),
        str(coco_sample / "images"),
        str(coco_sample / "panoptic"),
    )
    entries = json.loads((folder / "instances_pred.json").read_text())
    to_contiguous = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    evaluator = InstanceEvaluator(name)
    for record in DatasetCatalog.get(name):
        mine = [e for e in entries if e["image_id"] == record["image_id"]]
        instances = Instances((record["height"], record["width"]))
        boxes = torch.tensor([e["bbox"] for e in mine], dtype=torch.float64)
        boxes[:, 2:] += boxes[:, :2]
        instances.pred_boxes = Boxes(boxes)
        instances.scores = torch.tensor([e["score"] for e in mine], dtype=torch.float64)
        instances.pred_classes = torch.tensor([to_contiguous[e["category_id"]] for e in mine])
        masks = np.array([mask_util.decode(e["segmentation"]) for e in mine])
        instances.pred_masks = torch.from_numpy(masks).bool()
        evaluator.process([record], [{"instances": instances}])
    expected = json.loads((folder / "expected.json").read_text())
    assert_same(evaluator.evaluate(), {k: expected[k] for k in ("bbox", "segm")}, 1e-6)
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_detections_on_a_crowd_are_no_mistakes(panoptic_set):
    evaluator = InstanceEvaluator(panoptic_set.name, tasks=("segm",))
    names = panoptic_set.metadata.thing_classes

    def ap(region, name):
        evaluator.reset()
        found = panoptic_set.detect(1)
        extra = Instances(found.image_size)
        mask = torch.zeros(1, *found.image_size, dtype=torch.bool)
        mask[(0, *region)] = True
        extra.pred_boxes = Boxes(torch.tensor([[36.0, 8.0, 62.0, 20.0]]))
        extra.scores, extra.pred_masks = torch.tensor([0.99]), mask
        extra.pred_classes = torch.tensor([names.index(name)])
        both = Instances.cat([found, extra])
        evaluator.process([panoptic_set.dicts[1]], [{"instances": both}])
        return evaluator.evaluate()["segm"]["AP-cat"]

    crowd = np.s_[9:18, 38:60]
    assert ap(crowd, "cat") == pytest.approx(100)
    assert ap(np.s_[40:47, 0:30], "cat") == pytest.approx(50)


def test_no_predictions_and_no_objects(panoptic_set, caplog):
    evaluator = InstanceEvaluator(panoptic_set.name)
    evaluator.reset()
    for record in panoptic_set.dicts:
        nothing = panoptic_set.detect(2)
        assert len(nothing) == 0
        evaluator.process([record], [{"instances": nothing}])
    results = evaluator.evaluate()
    assert "No instance was predicted on any of 3 images" in caplog.text
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == results[task]["AP-cat"] == 0
        assert np.isnan(results[task]["AP-bird"])
    evaluator.reset()
    evaluator.process([panoptic_set.dicts[2]], [{"instances": panoptic_set.detect(0)}])
    assert np.isnan(evaluator.evaluate()["bbox"]["AP"])
    evaluator.reset()
    assert np.isnan(evaluator.evaluate()["bbox"]["AP"])


def test_tasks_and_written_detections(panoptic_set, tmp_path):
    evaluator = InstanceEvaluator(panoptic_set.name, tasks=["bbox"], output_dir=str(tmp_path / "o"))
    assert list(run(evaluator, panoptic_set)) == ["bbox"]
    written = json.loads((tmp_path / "o" / "coco_instances_results.json").read_text())
    assert {e["category_id"] for e in written} == {3, 7}
    assert {e["image_id"] for e in written} == {10, 11}
    with pytest.raises(ConfigError, match=r"\['box'\] is unknown"):
        InstanceEvaluator(panoptic_set.name, tasks=("box",))


def test_class_beyond_the_set(panoptic_set):
    evaluator = InstanceEvaluator(panoptic_set.name)
    found = panoptic_set.detect(0)
    found.pred_classes[0] = 3
    with pytest.raises(ValueError, match=r"class 3, but .* has 3 things, 0\.\.2"):
        evaluator.process([panoptic_set.dicts[0]], [{"instances": found}])


def test_set_without_labels(test_set, panoptic_set):
    evaluator = InstanceEvaluator(test_set.name)
    evaluator.process([test_set.dicts[0]], [{"instances": panoptic_set.detect(0)}])
    assert evaluator.evaluate() == {}


def test_the_usual_log_has_the_tables_alone(panoptic_set, tmp_path, caplog):
    setup_logger(str(tmp_path), name="lvt_d2")
    with caplog.at_level(logging.DEBUG, logger="pycocotools"):
        run(InstanceEvaluator(panoptic_set.name), panoptic_set)
    for handler in logging.getLogger("lvt_d2").handlers:
        handler.flush()
    written = (tmp_path / "log.txt").read_text()
    assert written.count("Evaluation results for") == 2
    assert "Average Precision" not in written
    assert caplog.text.count("Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all") == 2
