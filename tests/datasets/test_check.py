"""The command line of datasets/check.py; what it finds is tested in data_pipeline/test_check.py."""

import importlib.util
from pathlib import Path

import pytest
from PIL import Image

from tests.synthetic_ade20k import write_ade20k

FOLDER = Path(__file__).parents[2] / "datasets"


def load_script(name):
    spec = importlib.util.spec_from_file_location(f"datasets_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check = load_script("check")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("root")
    load_script("make_shapes").main(["--output", str(folder), "--train", "3", "--val", "2"])
    return folder


def run(*arguments):
    return check.main([*map(str, arguments), "--workers", "1"])


def test_good_set(root, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    assert run("shapes", "--full") == 0
    printed = capsys.readouterr().out
    assert "[ok] shapes train: 3 images decoded, 0 problems" in printed
    assert "All is well" in printed


def test_ade20k(tmp_path, monkeypatch, capsys):
    tree = write_ade20k(tmp_path, 3, 2)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert run("ade20k", "--full") == 0
    printed = capsys.readouterr().out
    assert "[ok] ade20k train: 3 images decoded, 0 problems" in printed
    assert "[ok] ade20k val: 2 images decoded, 0 problems" in printed
    assert "[absent] ade20k test" in printed

    (tree / "images/validation/ADE_val_00000002.jpg").unlink()
    Image.new("L", (128, 96), 199).save(tree / "annotations/validation/ADE_val_00000001.png")
    assert run(tree, "--full") == 1
    printed = capsys.readouterr().out
    assert "has no image of this name" in printed
    assert "ADE_val_00000001.png has values outside the class list: 199 (12288 pixels)" in printed
    assert "1 of 2 sets have problems" in printed

    (tmp_path / "release_test/testing").mkdir(parents=True)
    assert run("ade20k") == 1
    assert "release_test/testing, has no file that ends in" in capsys.readouterr().out


def test_paths_and_broken_files(root, capsys):
    shapes = root / "shapes"
    assert run(shapes) == 0
    assert "panoptic_train.json: 3 images looked at" in capsys.readouterr().out

    image = next((shapes / "val").iterdir())
    content = image.read_bytes()
    image.write_bytes(content[:300])
    json_path = shapes / "annotations/panoptic_val.json"
    assert run(json_path, "--images", shapes / "val") == 1
    image.write_bytes(content)
    printed = capsys.readouterr().out
    assert f"{image}: can't be decoded" in printed
    assert "1 of 1 sets have problems" in printed


def test_long_lists_are_cut(root, capsys):
    options = ("--images", root, "--panoptic", root, "--show", "2")
    assert run(root / "shapes/annotations/panoptic_train.json", *options) == 1
    assert "... and 4 more (--show N lists them)" in capsys.readouterr().out


def test_missing_sets(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert run("coco", "coco_sample") == 1
    printed = capsys.readouterr().out
    assert f"{tmp_path}/coco/train2017: this folder is missing" in printed
    assert "annotations/panoptic_val2017.json does not exist" in printed
    assert "[absent] coco test-dev" in printed
    assert "datasets/README.md" in printed


def test_nonsense(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        run(tmp_path)
    assert caught.value.code == 2
    assert "is none of coco, ade20k, shapes, coco_sample" in capsys.readouterr().err
