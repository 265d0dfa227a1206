"""The loop over a data set, COCOEvaluator and the helpers for results."""

import json
import logging

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    flatten_results_dict,
    inference_context,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, BoxMode, Instances


@pytest.fixture
def dataset():
    """Registers metadata under a name of its own and forgets it afterwards."""
    names = set()

    def register(name, **metadata):
        names.add(name)
        return MetadataCatalog.get(name).set(**metadata)

    yield register
    for name in names:
        MetadataCatalog.remove(name)


def predictions(entries, size, to_contiguous):
    """Instances of one image from entries of COCO's result format."""
    instances = Instances(size)
    boxes = torch.tensor([e["bbox"] for e in entries], dtype=torch.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    instances.pred_boxes = Boxes(boxes)
    instances.scores = torch.tensor([e["score"] for e in entries], dtype=torch.float64)
    instances.pred_classes = torch.tensor(
        [to_contiguous[e["category_id"]] for e in entries], dtype=torch.int64
    )
    masks = [mask_util.decode(e["segmentation"]) for e in entries]
    instances.pred_masks = torch.from_numpy(np.array(masks).reshape(-1, *size)).bool()
    return instances


def assert_close(actual, expected):
    """Equal names in equal order; numbers within 1e-6, NaN where None is recorded."""
    assert list(actual) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(
            actual[name], np.nan if value is None else value, atol=1e-6, err_msg=name
        )


def golden_run(goldens, dataset, name, **arguments):
    folder = goldens / "evaluation"
    gt = json.loads((folder / "instances_gt.json").read_text())
    entries = json.loads((folder / "instances_pred.json").read_text())
    categories = [c for c in gt["categories"] if c.get("isthing", 1)]
    dataset(
        name,
        json_file=str(folder / "instances_gt.json"),
        thing_classes=[c["name"] for c in categories],
        thing_dataset_id_to_contiguous_id={c["id"]: i for i, c in enumerate(categories)},
    )
    to_contiguous = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    evaluator = COCOEvaluator(name, distributed=False, **arguments)
    evaluator.reset()
    for image in gt["images"]:
        mine = [e for e in entries if e["image_id"] == image["id"]]
        instances = predictions(mine, (image["height"], image["width"]), to_contiguous)
        evaluator.process([{"image_id": image["id"]}], [{"instances": instances}])
    return evaluator


def test_box_and_mask_ap_equal_recorded_numbers(goldens, dataset, tmp_path):
    evaluator = golden_run(goldens, dataset, "golden", output_dir=str(tmp_path))
    results = evaluator.evaluate()
    expected = json.loads((goldens / "evaluation" / "expected.json").read_text())
    assert list(results) == ["bbox", "segm"]
    for task in ("bbox", "segm"):
        assert_close(results[task], expected[task])
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert {e["category_id"] for e in written} <= set(range(1, 91))
    assert (tmp_path / "instances_predictions.pth").is_file()
    assert_close(evaluator.evaluate()["bbox"], expected["bbox"])


def test_limit_of_detections_and_choice_of_images(goldens, dataset):
    default = golden_run(goldens, dataset, "golden_limit", tasks=("bbox",)).evaluate()
    same = golden_run(goldens, dataset, "golden_limit", max_dets_per_image=101).evaluate()
    assert set(default) == {"bbox"}
    assert same["bbox"]["AP"] == pytest.approx(default["bbox"]["AP"], abs=1e-9)
    fewer = golden_run(goldens, dataset, "golden_limit", max_dets_per_image=5).evaluate()
    assert 0 < fewer["bbox"]["AP"] < default["bbox"]["AP"]
    evaluator = golden_run(goldens, dataset, "golden_limit", tasks=("bbox",))
    one = evaluator.evaluate(img_ids=[142238])["bbox"]["AP"]
    other = evaluator.evaluate(img_ids=[439180])["bbox"]["AP"]
    assert one != other and default["bbox"]["AP"] not in (one, other)


@pytest.fixture
def small(dataset, tmp_path):
    """Two images of 40x60 with a 20x20 object of class 3 and one of class 7 (a crowd beside)."""
    square = {"iscrowd": 0, "area": 400, "segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]]}
    gt = {
        "images": [{"id": i, "height": 40, "width": 60} for i in (1, 2)],
        "categories": [{"id": 3, "name": "a"}, {"id": 7, "name": "b"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 20], **square},
            {"id": 2, "image_id": 2, "category_id": 7, "bbox": [5, 5, 20, 20], **square},
            {
                "id": 3,
                "image_id": 2,
                "category_id": 7,
                "bbox": [30, 5, 25, 20],
                **square,
                "iscrowd": 1,
            },
        ],
    }
    path = tmp_path / "small.json"
    path.write_text(json.dumps(gt))
    dataset(
        "small",
        json_file=str(path),
        thing_classes=["a", "b"],
        thing_dataset_id_to_contiguous_id={3: 0, 7: 1},
    )
    return gt


def boxes_only(boxes, scores, classes):
    instances = Instances((40, 60))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor(scores)
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return instances


def test_boxes_without_masks(small):
    evaluator = COCOEvaluator("small", distributed=False)
    evaluator.reset()
    box = [5.0, 5.0, 25.0, 25.0]
    evaluator.process(
        [{"image_id": 1}, {"image_id": 2}],
        [
            {"instances": boxes_only([box], [0.9], [0])},
            {"instances": boxes_only([], [], [])},
        ],
    )
    results = evaluator.evaluate()
    assert set(results) == {"bbox"}
    assert results["bbox"]["AP-a"] == pytest.approx(100)
    assert results["bbox"]["AP-b"] == 0
    assert results["bbox"]["AP"] == pytest.approx(50)
    assert np.isnan(results["bbox"]["APl"])


def test_empty_predictions(small, caplog):
    evaluator = COCOEvaluator("small", tasks=("bbox", "segm"), distributed=False)
    evaluator.reset()
    assert evaluator.evaluate() == {}
    evaluator.process([{"image_id": 1}], [{"instances": boxes_only([], [], [])}])
    results = evaluator.evaluate()
    assert set(results) == {"bbox", "segm"}
    assert all(np.isnan(list(task.values())).all() for task in results.values())
    evaluator.process([{"image_id": 2}], [{}])
    assert "No predictions from the model!" in caplog.text


def test_class_beyond_the_data_set(small):
    evaluator = COCOEvaluator("small", distributed=False)
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": boxes_only([[0, 0, 5, 5]], [0.5], [2])}])
    with pytest.raises(AssertionError, match="A prediction has class=2"):
        evaluator.evaluate()
    evaluator = COCOEvaluator("small", tasks=("boxes",), distributed=False)
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": boxes_only([[0, 0, 5, 5]], [0.5], [1])}])
    with pytest.raises(AssertionError, match="unknown task: boxes"):
        evaluator.evaluate()


def test_file_without_annotations(small, dataset, tmp_path, caplog):
    del small["annotations"]
    (tmp_path / "test.json").write_text(json.dumps(small))
    dataset("small_test", json_file=str(tmp_path / "test.json"))
    evaluator = COCOEvaluator("small_test", distributed=False, output_dir=str(tmp_path / "out"))
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": boxes_only([[0, 0, 5, 5]], [0.5], [1])}])
    caplog.set_level(logging.INFO)
    assert evaluator.evaluate() == {}
    assert "Annotations are not available" in caplog.text
    (entry,) = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert entry == {"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}


def test_needs_a_folder_to_convert_other_formats(dataset):
    dataset("no_json")
    with pytest.raises(ValueError, match="output_dir must be provided"):
        COCOEvaluator("no_json")


def test_other_formats_are_converted(dataset, tmp_path):
    box = {"bbox": [5, 5, 25, 25], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    records = [
        {"file_name": "1.jpg", "image_id": 1, "height": 40, "width": 60, "annotations": [box]}
    ]
    DatasetCatalog.register("plain", lambda: records)
    meta = dataset("plain", thing_classes=["a", "b"])
    evaluator = COCOEvaluator("plain", distributed=False, output_dir=str(tmp_path))
    assert meta.json_file == str(tmp_path / "plain_coco_format.json")
    evaluator.reset()
    found = boxes_only([[5.0, 5.0, 25.0, 25.0]], [0.9], [0])
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    assert evaluator.evaluate()["bbox"]["AP-a"] == pytest.approx(100)
    DatasetCatalog.remove("plain")


def test_config_in_place_of_tasks(small, caplog):
    node = CfgNode({"TEST": {"KEYPOINT_OKS_SIGMAS": []}})
    evaluator = COCOEvaluator("small", node, False)
    assert "deprecated" in caplog.text
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": boxes_only([[0, 0, 5, 5]], [0.5], [1])}])
    assert set(evaluator.evaluate()) == {"bbox"}


def test_proposal_recall(small, tmp_path):
    evaluator = COCOEvaluator("small", distributed=False, output_dir=str(tmp_path / "out"))
    evaluator.reset()
    exact, half = [5.0, 5.0, 25.0, 25.0], [5.0, 5.0, 25.0, 18.0]  # IoU 1 and 0.65
    for image, box in ((1, exact), (2, half)):
        proposals = Instances((40, 60))
        proposals.proposal_boxes = Boxes(torch.tensor([[40.0, 0.0, 60.0, 9.0], box]))
        proposals.objectness_logits = torch.tensor([2.0, 1.0])
        evaluator.process([{"image_id": image}], [{"proposals": proposals}])
    results = evaluator.evaluate()["box_proposals"]
    # One object is found at all 10 thresholds, the other at 0.5 .. 0.65.
    assert results["AR@100"] == pytest.approx(100 * (10 + 4) / 20, abs=1e-4)
    assert results["AR@1000"] == pytest.approx(results["AR@100"])
    assert results["ARs@100"] == pytest.approx(results["AR@100"])
    assert np.isnan(results["ARl@100"])
    assert (tmp_path / "out" / "box_proposals.pkl").is_file()


def test_proposals_without_boxes(small):
    evaluator = COCOEvaluator("small", distributed=False)
    evaluator.reset()
    proposals = Instances((40, 60))
    proposals.proposal_boxes = Boxes(torch.zeros(0, 4))
    proposals.objectness_logits = torch.zeros(0)
    evaluator.process([{"image_id": 1}], [{"proposals": proposals}])
    assert np.isnan(evaluator.evaluate()["box_proposals"]["AR@100"])


def test_instances_to_coco_json():
    assert instances_to_coco_json(boxes_only([], [], []), 5) == []
    instances = boxes_only([[1, 2, 4, 7]], [0.25], [3])
    mask = torch.zeros(1, 40, 60, dtype=torch.bool)
    mask[0, 2:7, 1:4] = True
    instances.pred_masks = mask
    (entry,) = instances_to_coco_json(instances, 5)
    rle = entry.pop("segmentation")
    assert entry == {"image_id": 5, "category_id": 3, "bbox": [1, 2, 3, 5], "score": 0.25}
    assert isinstance(rle["counts"], str) and json.dumps(rle)
    np.testing.assert_array_equal(mask_util.decode(rle), mask[0].numpy())


class Recorder(DatasetEvaluator):
    def __init__(self, result):
        self.calls, self.result = [], result

    def reset(self):
        self.calls.append("reset")

    def process(self, inputs, outputs):
        self.calls.append((inputs, outputs))

    def evaluate(self):
        self.calls.append("evaluate")
        return self.result


class Doubler(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, inputs):
        self.seen.append((self.training, torch.is_grad_enabled()))
        return [2 * x for x in inputs]


def test_loop_runs_in_eval_mode_and_restores_it(caplog):
    caplog.set_level(logging.INFO)
    model, recorder = Doubler().train(), Recorder({"task": {"metric": 1.0}})
    calls = []
    names = ("on_start", "before_inference", "after_inference", "on_end")
    callbacks = {name: lambda name=name: calls.append(name) for name in names}
    results = inference_on_dataset(model, [[1], [2, 3]], recorder, callbacks)
    assert results == {"task": {"metric": 1.0}}
    assert model.training and model.seen == [(False, False)] * 2
    assert recorder.calls == ["reset", ([1], [2]), ([2, 3], [4, 6]), "evaluate"]
    steps = ["before_inference", "after_inference"]
    assert calls == ["on_start", *steps, *steps, "on_end"]
    for text in ("Start inference on 2 batches", "Total inference time", "pure compute time"):
        assert text in caplog.text


def test_loop_with_several_evaluators_none_and_no_data():
    results = inference_on_dataset(
        Doubler(), [[1]], [Recorder({"a": 1}), Recorder(None), Recorder({"b": 2})]
    )
    assert results == {"a": 1, "b": 2}
    assert inference_on_dataset(lambda inputs: inputs, [[1]] * 12, None) == {}
    assert inference_on_dataset(Doubler(), [], Recorder(None)) == {}


def test_evaluators_may_not_share_a_key():
    both = DatasetEvaluators([Recorder({"a": 1}), Recorder({"a": 2})])
    both.reset()
    with pytest.raises(AssertionError, match="same key a"):
        both.evaluate()


@pytest.mark.parametrize("training", [True, False])
def test_inference_context(training):
    model = Doubler().train(training)
    with inference_context(model):
        assert not model.training
    assert model.training is training


def test_print_csv_format(caplog):
    caplog.set_level(logging.INFO)
    print_csv_format({"bbox": {"AP": 1.23456, "AP-a": 5.0, "AP50": 2.0}, "loss": 3})
    lines = [record.message for record in caplog.records]
    assert lines == [
        "copypaste: Task: bbox",
        "copypaste: AP,AP50",
        "copypaste: 1.2346,2.0000",
        "copypaste: loss=3",
    ]


def test_flatten_results_dict():
    nested = {"bbox": {"AP": 1, "deep": {"x": 2}}, "loss": 3}
    assert flatten_results_dict(nested) == {"bbox/AP": 1, "bbox/deep/x": 2, "loss": 3}
    assert flatten_results_dict({}) == {}


@pytest.mark.parametrize(
    ("expected", "passes"),
    [
        ([], True),
        ([["bbox", "AP", 38.5, 0.2]], True),
        ([["bbox", "AP", 38.5, 0.05]], False),
        ([["bbox", "AP50", 38.5, 0.2]], False),
        ([["bbox", "APs", 38.5, 100.0]], False),
    ],
)
def test_verify_results(expected, passes):
    cfg = CfgNode({"TEST": {"EXPECTED_RESULTS": expected}})
    results = {"bbox": {"AP": 38.6, "APs": float("nan")}}
    if passes:
        assert verify_results(cfg, results) is True
    else:
        with pytest.raises(SystemExit) as error:
            verify_results(cfg, results)
        assert error.value.code == 1
