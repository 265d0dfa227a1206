import re

import numpy as np
import pytest
from PIL import Image

from lvt_d2.data.check_semantic import SemanticSource, check_semantic_source
from tests.synthetic_ade20k import write_ade20k

NAME = "ADE_train_00000002"


@pytest.fixture
def folders(tmp_path):
    tree = write_ade20k(tmp_path, 3, 1)
    return tree / "images/training", tree / "annotations/training"


def check(folders, full=False, workers=1, **options):
    source = SemanticSource("ade", *map(str, folders), num_classes=150, reduce_zero_label=True)
    return check_semantic_source(SemanticSource(**{**vars(source), **options}), full, workers)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_good_set(folders, full, workers):
    report = check(folders, full, workers)
    assert report.problems == [] and report.images == 3


def _truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def _rewrite(path, change):
    Image.fromarray(change(np.array(Image.open(path)))).save(path)


QUICK = {
    "no labels": (lambda i, a: a.unlink(), r"2\.jpg: .*annotations/training has no label PNG of"),
    "no image": (lambda i, a: i.unlink(), r"2\.png: .*images/training has no image of this name"),
    "image truncated": (lambda i, a: _truncate(i), r"2\.jpg: can't be decoded"),
    "labels truncated": (lambda i, a: _truncate(a), r"2\.png: can't be decoded"),
    "no PNG": (lambda i, a: a.write_text("x"), r"2\.png: can't be decoded"),
    "size": (
        lambda i, a: _rewrite(a, lambda v: v[:, :-2]),
        r"2\.png: 120x88 pixels .* its image .*2\.jpg has 120x90",
    ),
    "colours": (lambda i, a: Image.new("RGB", (90, 120)).save(a), r"2\.png: a RGB image, expec"),
}
FULL = {
    "classes": (
        lambda i, a: _rewrite(a, lambda v: np.maximum(v, 151)),
        r"^.*2\.png has values outside the class list: 151 \(10800 pixels\)",
    ),
    "lossy": (
        lambda i, a: Image.new("L", (90, 120)).save(a, format="JPEG"),
        r"2\.png is a JPEG image of mode L",
    ),
}


@pytest.mark.parametrize("kind", {**QUICK, **FULL})
def test_problems(folders, kind):
    change, message = {**QUICK, **FULL}[kind]
    images, labels = folders
    change(images / f"{NAME}.jpg", labels / f"{NAME}.png")
    for full in (False, True) if kind in QUICK else (True,):
        (problem,) = check(folders, full).problems
        assert re.search(message, problem)
    if kind in FULL:
        assert check(folders).problems == []


def test_missing_and_empty_folders(folders, tmp_path):
    images, labels = folders
    (report,) = check((images, tmp_path / "no")).problems
    assert report == f"{tmp_path}/no: this folder is missing"
    assert check((tmp_path / "no", tmp_path / "no"), optional=True).absent
    (tmp_path / "empty").mkdir()
    assert "has no file that ends in" in check((tmp_path / "empty", labels)).problems[0]


def test_without_labels(folders):
    report = check(folders, full=True, sem_seg_root=None)
    assert report.problems == [] and report.images == 3
    _truncate(folders[0] / f"{NAME}.jpg")
    assert len(check(folders, sem_seg_root=None).problems) == 1
