import colorsys
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lvt_d2.data.builtin import shapes_paths
from lvt_d2.data.check import PanopticSource, check_source
from lvt_d2.data.panoptic_png import read_panoptic_ids
from lvt_d2.data.shapes_meta import SHAPES_CATEGORIES

SCRIPT = Path(__file__).parents[2] / "datasets/make_shapes.py"
TRAIN, VAL = 40, 8


def load_script():
    spec = importlib.util.spec_from_file_location("make_shapes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_shapes = load_script()


def make(folder, *options):
    make_shapes.main(["--output", str(folder), "--train", str(TRAIN), "--val", str(VAL), *options])
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return make(tmp_path_factory.mktemp("shapes"))


def annotations(folder, split="train"):
    paths = shapes_paths(str(folder), split)
    content = json.loads(Path(paths["panoptic_json"]).read_text())
    for entry in content["annotations"]:
        yield read_panoptic_ids(f"{paths['panoptic_root']}/{entry['file_name']}"), entry


@pytest.mark.parametrize(("split", "count"), [("train", TRAIN), ("val", VAL)])
def test_layout_and_labels_hold(shapes, split, count):
    report = check_source(PanopticSource(split, **shapes_paths(str(shapes), split)), full=True)
    assert report.problems == []
    assert report.images == count


def test_scenes_are_as_promised(shapes):
    things = {c["id"]: c["name"] for c in SHAPES_CATEGORIES if c["isthing"]}
    seen, crowds, voids = set(), 0, 0
    for ids, entry in annotations(shapes):
        segments = entry["segments_info"]
        objects = [s for s in segments if s["category_id"] in things and not s["iscrowd"]]
        stuff = [s for s in segments if s["category_id"] not in things]
        assert 2 <= len(objects) <= 6
        assert len({s["category_id"] for s in stuff}) == len(stuff) <= 3
        seen |= {s["category_id"] for s in segments}
        crowds += any(s["iscrowd"] for s in segments)
        voids += (ids == 0).any()
        for segment in segments:
            rows, columns = np.nonzero(ids == segment["id"])
            assert segment["area"] == len(rows)
            x, y, w, h = segment["bbox"]
            assert (x, x + w) == (columns.min(), columns.max() + 1)
            assert (y, y + h) == (rows.min(), rows.max() + 1)
    assert seen == {c["id"] for c in SHAPES_CATEGORIES}
    assert len(things) >= 5 and len(SHAPES_CATEGORIES) - len(things) >= 4
    assert 0 < crowds < TRAIN / 2
    assert voids > TRAIN / 2


def test_same_seed_same_files(shapes, tmp_path):
    again = make(tmp_path)
    names = sorted(p.relative_to(shapes) for p in shapes.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    for name in names:
        assert (shapes / name).read_bytes() == (again / name).read_bytes(), name


def test_seeds_and_splits_never_share_a_scene(shapes):
    first = {
        (seed, split, number): make_shapes.scene_rng(seed, split, number).integers(2**63)
        for seed in range(3)
        for split in ("train", "val")
        for number in range(50)
    }
    assert len(set(first.values())) == len(first)
    maps = [ids.tobytes() for split in ("train", "val") for ids, _ in annotations(shapes, split)]
    assert len(set(maps)) == TRAIN + VAL


def test_size(tmp_path):
    make_shapes.main(["--output", str(tmp_path), "--train", "1", "--val", "1", "--size", "224"])
    (path,) = (tmp_path / "shapes/train").iterdir()
    assert Image.open(path).size == (224, 224)


def test_hues_hint_at_the_class_and_no_more(shapes):
    """The typical hue nearest to a thing's own names its class often, but far from always."""
    things = [c["id"] for c in SHAPES_CATEGORIES if c["isthing"]]
    right = []
    for ids, entry in annotations(shapes):
        image = shapes / "shapes/train" / f"{entry['file_name'][:-4]}.jpg"
        pixels = np.asarray(Image.open(image)).astype(float) / 255
        for segment in entry["segments_info"]:
            if segment["category_id"] in things and not segment["iscrowd"]:
                color = np.median(pixels[ids == segment["id"]], axis=0)
                turn = colorsys.rgb_to_hsv(*color)[0] * len(things)
                right.append(round(turn) % len(things) == things.index(segment["category_id"]))
    assert len(right) > 50
    assert 0.7 < np.mean(right) < 0.97


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "100"], "at least 160 pixels"),
        (["--train", "0"], "number of images"),
        (["--val", "many"], "number of images"),
        (["--seed=-1"], "0 or more"),
    ],
)
def test_bad_options(options, message, capsys, tmp_path):
    with pytest.raises(SystemExit):
        make_shapes.main(["--output", str(tmp_path), *options])
    assert message in capsys.readouterr().err


def test_output_that_can_not_be_written(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        make_shapes.main(["--output", str(tmp_path / "file"), "--train", "1", "--val", "1"])
    assert ended.value.code == 2
    assert f"--output is {tmp_path / 'file'}, where nothing can" in capsys.readouterr().err
