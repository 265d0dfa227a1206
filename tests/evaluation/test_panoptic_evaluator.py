"""PanopticEvaluator: numbers, files, sets without labels, errors."""

import json
import logging
import zipfile

import numpy as np
import pytest
import torch
from detectron2.evaluation import COCOPanopticEvaluator

import lvt_d2
from lvt_d2.data import read_panoptic_ids
from lvt_d2.errors import ConfigError, DatasetError
from lvt_d2.evaluation import PanopticEvaluator, PanopticQuality
from lvt_d2.evaluation.png_writer import PanopticPngWriter

NAMES = [f"{metric}{group}" for group in ("", "_th", "_st") for metric in ("PQ", "SQ", "RQ")]


def run(evaluator, dataset, shift, keep=None):
    evaluator.reset()
    for index, record in enumerate(dataset.dicts):
        kept = record if keep is None else {key: record[key] for key in keep}
        evaluator.process([kept], [{"panoptic_seg": dataset.predict(index, shift)}])
    return evaluator.evaluate()


def by_hand(dataset, shift):
    meta = dataset.metadata
    own = {
        True: {v: k for k, v in meta.thing_dataset_id_to_contiguous_id.items()},
        False: {v: k for k, v in meta.stuff_dataset_id_to_contiguous_id.items()},
    }

    def converted(segments):
        return [s | {"category_id": own[s["isthing"]][s["category_id"]]} for s in segments]

    content = json.loads((dataset.root / "panoptic.json").read_text())
    quality = PanopticQuality(content["categories"])
    for index, annotation in enumerate(content["annotations"]):
        ids, segments = dataset.predict(index, shift)
        quality.update(
            dataset.maps[index], annotation["segments_info"], ids.numpy(), converted(segments)
        )
    return quality.summary()


def test_perfect_and_moved_predictions(panoptic_set, caplog):
    caplog.set_level(logging.INFO)
    evaluator = PanopticEvaluator(panoptic_set.name)
    perfect = run(evaluator, panoptic_set, shift=0)["panoptic_seg"]
    assert list(perfect) == NAMES
    assert perfect == pytest.approx(dict.fromkeys(NAMES, 100))
    for text in ("Panoptic Evaluation Results", "#categories", "cat", "grass"):
        assert text in caplog.text
    moved = run(evaluator, panoptic_set, shift=3)["panoptic_seg"]
    expected = by_hand(panoptic_set, shift=3)
    assert 30 < moved["PQ"] < 95
    for group, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
        for metric in ("pq", "sq", "rq"):
            value = moved[f"{metric.upper()}{suffix}"]
            assert value == pytest.approx(100 * expected[group][metric], abs=1e-10)


def test_inputs_without_labels_are_looked_up(panoptic_set):
    """Detectron2's own mapper may drop what the evaluator needs."""
    evaluator = PanopticEvaluator(panoptic_set.name)
    full = run(evaluator, panoptic_set, shift=3)
    assert run(evaluator, panoptic_set, shift=3, keep=("image_id", "file_name")) == full
    with pytest.raises(DatasetError, match="image 999 .* is not in the data set"):
        evaluator.process(
            [{"image_id": 999, "file_name": "x.jpg"}], [{"panoptic_seg": panoptic_set.predict(0)}]
        )


@pytest.mark.skipif(lvt_d2.ENGINE != "d2lite", reason="Detectron2's own needs panopticapi")
def test_equals_coco_panoptic_evaluator(panoptic_set):
    ours = run(PanopticEvaluator(panoptic_set.name), panoptic_set, shift=4)
    theirs = run(COCOPanopticEvaluator(panoptic_set.name), panoptic_set, shift=4)
    assert ours["panoptic_seg"] == pytest.approx(theirs["panoptic_seg"], abs=1e-10)


def test_files_in_the_coco_format(panoptic_set, tmp_path):
    output = tmp_path / "inference"
    run(PanopticEvaluator(panoptic_set.name, output_dir=str(output)), panoptic_set, shift=3)
    written = json.loads((output / "predictions.json").read_text())
    assert {c["id"]: c["isthing"] for c in written["categories"]} == {
        7: 1,
        3: 1,
        12: 1,
        90: 0,
        40: 0,
    }
    assert [i["id"] for i in written["images"]] == [10, 11, 12]
    assert written["images"][0]["file_name"] == "0000.jpg"
    assert sorted(p.name for p in (output / "panoptic").iterdir()) == [
        "0000.png",
        "0001.png",
        "0002.png",
    ]
    # What was written, read again, gives the numbers of the maps in memory.
    quality = PanopticQuality(written["categories"])
    content = json.loads((panoptic_set.root / "panoptic.json").read_text())
    for index, (gt, pred) in enumerate(
        zip(content["annotations"], written["annotations"], strict=True)
    ):
        assert pred["image_id"] == gt["image_id"]
        ids = read_panoptic_ids(output / "panoptic" / pred["file_name"])
        quality.update(panoptic_set.maps[index], gt["segments_info"], ids, pred["segments_info"])
    assert quality.summary() == by_hand(panoptic_set, shift=3)


def test_map_without_segments(panoptic_set):
    """Ids are class * divisor + instance, and -1 is void."""
    evaluator = PanopticEvaluator(panoptic_set.name)
    evaluator.reset()
    names = panoptic_set.metadata.stuff_classes
    for index, record in enumerate(panoptic_set.dicts):
        ids, segments = panoptic_set.predict(index)
        labels = torch.full_like(ids, -1)
        for segment in segments:
            if not segment["isthing"]:
                # Of numbers below 3, `things` has them all: only stuff can be told from them.
                assert names[segment["category_id"]] in ("sky", "grass")
            labels[ids == segment["id"]] = segment["category_id"] * 1000 + segment["id"]
        before = labels.clone()
        evaluator.process([record], [{"panoptic_seg": (labels, None)}])
        assert torch.equal(labels, before)
    results = evaluator.evaluate()["panoptic_seg"]
    assert results["RQ_th"] > 0


def test_set_without_labels_gives_a_zip(test_set, panoptic_set, tmp_path):
    with pytest.raises(ConfigError, match="no panoptic labels"):
        PanopticEvaluator(test_set.name)
    evaluator = PanopticEvaluator(test_set.name, output_dir=str(tmp_path), method_name="abc")
    for index, record in enumerate(test_set.dicts):
        evaluator.process([record], [{"panoptic_seg": panoptic_set.predict(index)}])
    assert evaluator.evaluate() == {}
    name = "panoptic_test-dev2017_abc_results"
    with zipfile.ZipFile(tmp_path / f"{name}.zip") as archive:
        assert set(archive.namelist()) == {
            f"{name}.json",
            *(f"{name}/{i:04d}.png" for i in range(3)),
        }
        annotations = json.loads(archive.read(f"{name}.json"))["annotations"]
        archive.extractall(tmp_path / "unpacked")
    assert [a["image_id"] for a in annotations] == [10, 11, 12]
    ids = read_panoptic_ids(tmp_path / "unpacked" / name / annotations[0]["file_name"])
    np.testing.assert_array_equal(ids, panoptic_set.predict(0)[0].numpy())
    assert {s["category_id"] for s in annotations[0]["segments_info"]} == {7, 3, 90, 40}


def test_png_that_disagrees_with_its_json(panoptic_set):
    evaluator = PanopticEvaluator(panoptic_set.name)
    (record, *_) = panoptic_set.dicts
    record["segments_info"] = record["segments_info"][1:]
    with pytest.raises(DatasetError, match=r"0000\.png disagrees with its JSON.*1000"):
        evaluator.process([record], [{"panoptic_seg": panoptic_set.predict(0)}])


def test_missing_png_is_named(panoptic_set):
    evaluator = PanopticEvaluator(panoptic_set.name)
    evaluator.reset()
    (panoptic_set.root / "panoptic" / "0001.png").unlink()
    with pytest.raises(DatasetError, match=r"0001\.png does not exist"):
        evaluator.process([panoptic_set.dicts[1]], [{"panoptic_seg": panoptic_set.predict(1)}])


def test_bad_predictions_are_named(panoptic_set):
    evaluator = PanopticEvaluator(panoptic_set.name)
    ids, segments = panoptic_set.predict(0)
    record = panoptic_set.dicts[0]
    with pytest.raises(ValueError, match=r"0000\.jpg can't be evaluated: the prediction is 64x47"):
        evaluator.process([record], [{"panoptic_seg": (ids[1:], segments)}])
    segments[-1]["category_id"] = 3
    with pytest.raises(ValueError, match=r"class 3, but .* has the things 0\.\.2"):
        evaluator.process([record], [{"panoptic_seg": (ids, segments)}])


def test_outputs_are_left_alone(panoptic_set):
    ids, segments = panoptic_set.predict(0)
    copies = ids.clone(), [dict(s) for s in segments]
    evaluator = PanopticEvaluator(panoptic_set.name)
    evaluator.process([panoptic_set.dicts[0]], [{"panoptic_seg": (ids, segments)}])
    assert torch.equal(ids, copies[0]) and segments == copies[1]


def test_png_writer(tmp_path):
    writer = PanopticPngWriter(str(tmp_path / "new"))
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, 2**24, (5, 7)).astype(np.int64) for _ in range(100)]
    for number, ids in enumerate(maps):
        writer.write(f"{number}.png", ids)
        ids_before = ids.copy()
        ids[:] = 0  # the caller may use its array again
        maps[number] = ids_before
    writer.close()
    for number, ids in enumerate(maps):
        np.testing.assert_array_equal(read_panoptic_ids(tmp_path / "new" / f"{number}.png"), ids)
    for bad in (-1, 2**24):
        with pytest.raises(ValueError, match=r"a PNG holds 0\.\.16777215"):
            writer.write("bad.png", np.full((2, 2), bad))
    writer.write("no_such_folder/x.png", np.zeros((2, 2), int))
    with pytest.raises(OSError, match="no_such_folder"):
        writer.close()
