"""The command line of datasets/check.py; what it finds is tested in data_pipeline/test_check.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(script, *arguments, **env):
    return subprocess.run(
        [sys.executable, str(ROOT / "datasets" / script), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("root")
    made = run("make_shapes.py", "--output", str(folder), "--train", "3", "--val", "2")
    assert made.returncode == 0, made.stderr
    assert "shapes/annotations/panoptic_val.json: 2 images of 160x160 pixels" in made.stdout
    return folder


def test_good_set(root):
    result = run("check.py", "shapes", "--full", "--workers", "1", DETECTRON2_DATASETS=str(root))
    assert result.returncode == 0, result.stdout
    assert "[ok] shapes train: 3 images decoded, 0 problems" in result.stdout
    assert "All is well" in result.stdout


def test_paths_and_broken_files(root):
    shapes = root / "shapes"
    result = run("check.py", str(shapes), "--workers", "1")
    assert result.returncode == 0, result.stdout
    assert "panoptic_train.json: 3 images looked at" in result.stdout

    image = next((shapes / "val").iterdir())
    content = image.read_bytes()
    image.write_bytes(content[:300])
    options = ("--images", str(shapes / "val"), "--workers", "1")
    result = run("check.py", str(shapes / "annotations/panoptic_val.json"), *options)
    image.write_bytes(content)
    assert result.returncode == 1
    assert f"{image}: can't be decoded" in result.stdout
    assert "1 of 1 sets have problems" in result.stdout


def test_missing_sets(tmp_path):
    result = run("check.py", "coco", "coco_sample", DETECTRON2_DATASETS=str(tmp_path))
    assert result.returncode == 1
    assert f"{tmp_path}/coco/train2017: this folder is missing" in result.stdout
    assert "annotations/panoptic_val2017.json does not exist" in result.stdout
    assert "[absent] coco test-dev" in result.stdout
    assert "datasets/README.md" in result.stdout


def test_nonsense(tmp_path):
    result = run("check.py", str(tmp_path))
    assert result.returncode == 2
    assert "is none of coco, shapes, coco_sample" in result.stderr
