"""PredictionPictures: how many, how large, and colours on the right pixels."""

import numpy as np
import pytest
from PIL import Image

from lvt_d2.evaluation import PredictionPictures
from lvt_d2.evaluation.pictures import _GAP, _TITLE_HEIGHT

SCALE = 12  # 600 / 48


def draw(dataset, predictions, folder, limit=16, batch=2):
    evaluator = PredictionPictures(dataset.name, str(folder), max_pictures=limit)
    evaluator.reset()
    outputs = [{"panoptic_seg": p} for p in predictions]
    for start in range(0, len(outputs), batch):
        part = slice(start, start + batch)
        evaluator.process(dataset.dicts[: len(outputs)][part], outputs[part])
    assert not evaluator.evaluate()
    return sorted(folder.iterdir()) if folder.exists() else []


def panels(path, count):
    pixels = np.asarray(Image.open(path))[_TITLE_HEIGHT:].astype(int)
    width = (pixels.shape[1] + _GAP) // count
    assert pixels.shape == (48 * SCALE, count * width - _GAP, 3) and width == 64 * SCALE + _GAP
    return [pixels[:, i * width : i * width + 64 * SCALE] for i in range(count)]


def center(panel, y, x):
    """Mean colour of the middle of one pixel of the image."""
    middle = slice(SCALE // 3, 2 * SCALE // 3)
    block = panel[y * SCALE : (y + 1) * SCALE, x * SCALE : (x + 1) * SCALE]
    return block[middle, middle].mean(axis=(0, 1))


def test_masks_are_on_their_pixels(panoptic_set, tmp_path):
    predictions = [panoptic_set.predict(i, shift=10) for i in range(3)]
    paths = draw(panoptic_set, predictions, tmp_path / "pictures")
    assert [p.name for p in paths] == ["0000.png", "0001.png", "0002.png"]
    image, truth, prediction = panels(paths[0], 3)
    assert abs(image - 75).max() < 60
    # The dog of the ground truth ends at x = 44, where the prediction is still sky, 10 to the left.
    dog, sky = np.array([30, 200, 30]), np.array([30, 30, 200])
    for panel, left in ((truth, 44), (prediction, 54)):
        inside, outside = center(panel, 24, left + 2), center(panel, 24, left - 3)
        assert inside[1] > inside[2] and inside[1] > 110
        assert outside[2] > outside[1] and outside[2] > 110
        assert np.abs(inside - 0.5 * dog - 0.5 * 75).max() < 70  # its colour varies
        assert np.abs(outside - 0.5 * sky - 0.5 * 75).max() < 25
    # Void stays as it is.
    for panel in (truth, prediction):
        assert np.abs(center(panel, 1, 20) - center(image, 1, 20)).max() < 12


def test_titles_and_labels_are_there(panoptic_set, tmp_path):
    (path, *_) = draw(panoptic_set, [panoptic_set.predict(0)], tmp_path / "pictures")
    title = np.asarray(Image.open(path).convert("L"))[:_TITLE_HEIGHT]
    width = (title.shape[1] + _GAP) // 3
    for i in range(3):
        assert (title[:, i * width : i * width + 200] < 100).sum() > 100
    _, truth, prediction = panels(path, 3)
    for panel in (truth, prediction):  # dark grounds of the labels
        assert (panel.max(axis=2) < 45).sum() > 1000


@pytest.mark.parametrize(("limit", "expected"), [(0, 0), (2, 2), (5, 3)])
def test_limit(panoptic_set, tmp_path, limit, expected):
    predictions = [panoptic_set.predict(i) for i in range(3)]
    assert len(draw(panoptic_set, predictions, tmp_path / "p", limit)) == expected


def test_set_without_labels_and_maps_without_segments(test_set, panoptic_set, tmp_path):
    ids, _ = panoptic_set.predict(2)
    predictions = [panoptic_set.predict(0), panoptic_set.predict(1), ((ids > 0).int() - 1, None)]
    paths = draw(test_set, predictions, tmp_path / "p", batch=1)
    assert len(paths) == 3
    panels(paths[0], 2)


def test_outputs_are_left_alone(panoptic_set, tmp_path):
    ids, segments = panoptic_set.predict(0)
    copies = [dict(s) for s in segments]
    draw(panoptic_set, [(ids, segments)], tmp_path / "p")
    assert segments == copies
