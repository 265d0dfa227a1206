"""Two processes with a part of the images each give the numbers and files of one."""

import json
import pickle
import zipfile

import pytest
from detectron2.data import DatasetCatalog
from detectron2.engine import launch
from detectron2.utils import comm

from lvt_d2.data import register_panoptic_dataset
from lvt_d2.evaluation import (
    InstanceEvaluator,
    PanopticEvaluator,
    PredictionPictures,
    SemanticEvaluator,
)

NAME = "tests_panoptic_set"


def evaluate(folder, outputs, records):
    evaluators = [
        PanopticEvaluator(NAME, output_dir=f"{folder}/inference"),
        InstanceEvaluator(NAME),
        SemanticEvaluator(NAME, f"{folder}/semantic", save_predictions=True, submission=True),
        PredictionPictures(NAME, f"{folder}/pictures", max_pictures=3),
    ]
    rank, world = comm.get_rank(), comm.get_world_size()
    for evaluator in evaluators:
        evaluator.reset()
        evaluator.process(records[rank::world], outputs[rank::world])
    return [evaluator.evaluate() for evaluator in evaluators]


def worker(root, folder):
    register_panoptic_dataset(NAME, f"{root}/panoptic.json", f"{root}/images", f"{root}/panoptic")
    with open(f"{folder}/outputs.pkl", "rb") as file:
        outputs = pickle.load(file)
    results = evaluate(folder, outputs, DatasetCatalog.get(NAME))
    if comm.is_main_process():
        with open(f"{folder}/results.pkl", "wb") as file:
            pickle.dump(results, file)
    else:
        assert results == [None] * 4


def test_equal_one_process(panoptic_set, tmp_path):
    outputs = [panoptic_set.output(i, shift=3) for i in range(3)]
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    expected = evaluate(one, outputs, panoptic_set.dicts)
    (two / "outputs.pkl").write_bytes(pickle.dumps(outputs))
    launch(
        worker,
        num_gpus_per_machine=2,
        dist_url="auto",
        args=(str(panoptic_set.root), str(two)),
    )
    results = pickle.loads((two / "results.pkl").read_bytes())
    for found, wanted in zip(results[:3], expected[:3], strict=True):
        assert found.keys() == wanted.keys()
        for task in wanted:
            assert found[task] == pytest.approx(wanted[task], abs=1e-10, nan_ok=True)
    zips = [zipfile.ZipFile(run / "semantic/submission.zip") for run in (one, two)]
    assert zips[0].namelist() == zips[1].namelist() == ["0000.png", "0001.png", "0002.png"]
    assert all(zips[0].read(name) == zips[1].read(name) for name in zips[0].namelist())
    for folder in ("inference/panoptic", "semantic/sem_seg", "pictures"):
        names = [sorted(p.name for p in (run / folder).iterdir()) for run in (one, two)]
        assert names[0] == names[1] and len(names[0]) == 3
    written = [json.loads((run / "inference/predictions.json").read_text()) for run in (one, two)]
    for content in written:
        content["annotations"].sort(key=lambda a: a["image_id"])
        content["images"].sort(key=lambda i: i["id"])
    assert written[0] == written[1]
