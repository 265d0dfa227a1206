"""SemanticPictures: panels, colours on their pixels, and the legend."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from lvt_d2.evaluation import SemanticPictures
from lvt_d2.evaluation.pictures import _ALPHA, _GAP, _LEGEND_ROW, _SWATCH, _TITLE_HEIGHT

NAME = "tests_semantic_pictures"
SIZE = (30, 40)
SCALE = 20  # 600 / 30
GREY = 100
COLORS = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250]])


@pytest.fixture
def records(tmp_path):
    raw = np.zeros(SIZE, np.uint8)  # void above, then classes 0 and 2
    raw[10:20], raw[20:] = 1, 3
    Image.fromarray(np.full((*SIZE, 3), GREY, np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(raw).save(tmp_path / "labels.png")
    record = {"file_name": str(tmp_path / "a.png")}
    labelled = record | {"sem_seg_file_name": str(tmp_path / "labels.png")}
    for name, registered in ((NAME, labelled), (NAME + "_test", record)):
        DatasetCatalog.register(name, lambda registered=registered: [registered])
        MetadataCatalog.get(name).set(
            stuff_classes=["wall", "tree", "sky"],
            stuff_colors=COLORS.tolist(),
            ignore_label=255,
            reduce_zero_label=True,
        )
    yield [record]
    for name in (NAME, NAME + "_test"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def draw(name, records, prediction, folder):
    evaluator = SemanticPictures(name, str(folder))
    evaluator.reset()
    evaluator.process(records, [{"sem_seg": prediction}])
    assert not evaluator.evaluate()
    return np.asarray(Image.open(folder / "a.png")).astype(int)


def pixel(picture, panel, y, x):
    left = panel * (SIZE[1] * SCALE + _GAP)
    return picture[_TITLE_HEIGHT + int((y + 0.5) * SCALE), left + int((x + 0.5) * SCALE)]


def mixed(label):
    return (1 - _ALPHA) * GREY + _ALPHA * COLORS[label]


def test_colours_and_legend(records, tmp_path):
    labels = torch.ones(SIZE, dtype=torch.uint8)
    labels[:, 30:] = 2
    scores = torch.nn.functional.one_hot(labels.long(), 3).permute(2, 0, 1).float()
    from_labels = draw(NAME, records, labels, tmp_path / "labels")
    from_scores = draw(NAME, records, scores, tmp_path / "scores")
    np.testing.assert_array_equal(from_labels, from_scores)
    height = _TITLE_HEIGHT + SIZE[0] * SCALE
    assert from_labels.shape[0] == height + _LEGEND_ROW + _GAP
    assert from_labels.shape[1] == 3 * (SIZE[1] * SCALE + _GAP) - _GAP
    assert (pixel(from_labels, 0, 15, 5) == GREY).all()
    assert (pixel(from_labels, 1, 5, 5) == GREY).all()  # void
    for panel, y, x, label in ((1, 15, 5, 0), (1, 25, 5, 2), (2, 5, 5, 1), (2, 5, 35, 2)):
        assert np.abs(pixel(from_labels, panel, y, x) - mixed(label)).max() <= 1
    # Largest first: tree has 900 pixels of both maps, sky 300 + 400, wall 400.
    legend = from_labels[height + _GAP // 2 + _SWATCH // 2]
    order = [k for p in legend for k in range(3) if (p == COLORS[k]).all()]
    assert list(dict.fromkeys(order)) == [1, 2, 0]
    assert (from_labels[height:].max(axis=2) < 60).sum() > 200  # names


def test_set_without_labels(records, tmp_path):
    picture = draw(NAME + "_test", records, torch.zeros(SIZE, dtype=torch.int64), tmp_path / "p")
    assert picture.shape[1] == 2 * (SIZE[1] * SCALE + _GAP) - _GAP
    assert np.abs(pixel(picture, 1, 5, 5) - mixed(0)).max() <= 1


def test_long_legend_is_cut(records, tmp_path):
    name = NAME + "_many"
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(stuff_classes=[f"class {k}" for k in range(50)])
    labels = (torch.arange(SIZE[0] * SIZE[1]) % 50).view(SIZE)
    try:
        picture = draw(name, records, labels, tmp_path / "p")
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    rows = (picture.shape[0] - _TITLE_HEIGHT - SIZE[0] * SCALE - _GAP) / _LEGEND_ROW
    assert rows == int(rows) and 2 <= rows <= 4
