"""Visualizer: whole predictions and annotations, frames of videos."""

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from detectron2.utils.video_visualizer import VideoVisualizer
from detectron2.utils.visualizer import (
    ColorMode,
    Visualizer,
    _create_text_labels,
    _PanopticPrediction,
)
from PIL import Image

GREY = np.full((80, 120, 3), 128, dtype=np.uint8)
RED = (1.0, 0.0, 0.0)


@pytest.fixture
def meta():
    metadata = MetadataCatalog.get("tests_visualizer")
    metadata.set(
        thing_classes=["cat", "dog"],
        thing_colors=[(255, 0, 0), (0, 255, 0)],
        stuff_classes=["things", "sky", "grass"],
        stuff_colors=[(0, 0, 0), (0, 0, 255), (255, 255, 0)],
    )
    yield metadata
    MetadataCatalog.remove("tests_visualizer")


def square(y0=20, x0=30, y1=60, x1=90, shape=(80, 120)):
    mask = np.zeros(shape, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def changed(output, image=GREY):
    return (np.abs(output.get_image().astype(int) - image) > 2).any(axis=2)


# Whole predictions


def instances(**fields):
    result = Instances((80, 120))
    for name, value in fields.items():
        result.set(name, value)
    return result


def two_instances():
    masks = torch.from_numpy(np.stack([square(5, 5, 30, 40), square(40, 50, 75, 115)]))
    return instances(
        pred_boxes=Boxes(torch.tensor([[5.0, 5, 40, 30], [50, 40, 115, 75]])),
        scores=torch.tensor([0.987, 0.5]),
        pred_classes=torch.tensor([1, 0]),
        pred_masks=masks,
    )


@pytest.mark.parametrize("mode", list(ColorMode))
def test_instance_predictions(meta, mode):
    output = Visualizer(GREY, meta, instance_mode=mode).draw_instance_predictions(two_instances())
    assert sorted(t.get_text() for t in output.ax.texts) == ["cat 50%", "dog 99%"]
    drawn = output.get_image().astype(int)
    assert changed(output)[20, 30] and changed(output)[70, 100]
    assert not changed(output)[5:25, 60:].any()
    if mode == ColorMode.SEGMENTATION:
        assert drawn[25, 32].argmax() == 1 and drawn[70, 100].argmax() == 0


def test_parts_of_instance_predictions(meta):
    full = two_instances()
    for names in (["pred_boxes"], ["pred_masks"], ["pred_boxes", "scores"], ["pred_classes"]):
        part = instances(**{name: full.get(name) for name in names})
        if names == ["pred_classes"]:
            continue  # there is no place to draw
        output = Visualizer(GREY, meta).draw_instance_predictions(part)
        assert changed(output).any()
    nothing = instances(
        pred_boxes=Boxes(torch.zeros(0, 4)),
        scores=torch.zeros(0),
        pred_classes=torch.zeros(0, dtype=torch.int64),
        pred_masks=torch.zeros(0, 80, 120, dtype=torch.bool),
    )
    for mode in ColorMode:
        output = Visualizer(GREY, meta, instance_mode=mode).draw_instance_predictions(nothing)
        assert not changed(output).any()


def test_grey_where_no_mask_is(meta):
    image = np.zeros((80, 120, 3), dtype=np.uint8)
    image[..., 0] = 200
    visualizer = Visualizer(image, meta, instance_mode=ColorMode.IMAGE_BW)
    drawn = visualizer.draw_instance_predictions(two_instances()).get_image()
    assert np.ptp(drawn[10, 80].astype(int)) <= 2 and np.ptp(drawn[70, 100].astype(int)) > 50


@pytest.mark.parametrize("as_tensor", [True, False])
def test_sem_seg(meta, as_tensor):
    labels = np.zeros((80, 120), dtype=np.int64)
    labels[:, :60], labels[:, 60:] = 1, 2
    labels[:10, :10] = 255  # beyond the classes: ignored
    given = torch.from_numpy(labels) if as_tensor else labels
    output = Visualizer(GREY, meta).draw_sem_seg(given, alpha=0.5)
    assert {t.get_text() for t in output.ax.texts} == {"sky", "grass"}
    drawn = output.get_image().astype(int)
    np.testing.assert_allclose(drawn[70, 20], [64, 64, 192], atol=3)
    np.testing.assert_allclose(drawn[70, 90], [192, 192, 64], atol=3)
    np.testing.assert_allclose(drawn[3, 3], [128, 128, 128], atol=3)


def panoptic():
    ids = torch.zeros(80, 120, dtype=torch.int32)
    ids[:40], ids[40:], ids[20:60, 30:90], ids[:8, :8] = 7, 3, 20, 0
    segments = [
        {"id": 7, "category_id": 1, "isthing": False},
        {"id": 3, "category_id": 2, "isthing": False},
        {"id": 20, "category_id": 0, "isthing": True, "score": 0.75},
        {"id": 99, "category_id": 1, "isthing": True, "score": 0.1},  # without a pixel
    ]
    return ids, segments


def test_panoptic_prediction(meta):
    ids, segments = panoptic()
    pred = _PanopticPrediction(ids, segments, meta)
    stuff = list(pred.semantic_masks())
    assert [s["id"] for _, s in stuff] == [7, 3] or [s["id"] for _, s in stuff] == [3, 7]
    for mask, segment in stuff:
        np.testing.assert_array_equal(mask, ids.numpy() == segment["id"])
        assert segment["area"] == mask.sum()
    ((mask, segment),) = pred.instance_masks()
    assert segment["id"] == 20 and mask.sum() == 2400
    np.testing.assert_array_equal(pred.non_empty_mask(), ids.numpy() != 0)
    assert "area" not in segments[0]


@pytest.mark.parametrize("mode", list(ColorMode))
def test_panoptic_seg(meta, mode):
    ids, segments = panoptic()
    visualizer = Visualizer(GREY, meta, instance_mode=mode)
    output = visualizer.draw_panoptic_seg(ids, segments, alpha=0.5)
    assert sorted(t.get_text() for t in output.ax.texts) == ["cat 75%", "grass", "sky"]
    drawn = output.get_image().astype(int)
    np.testing.assert_allclose(drawn[12, 110], [64, 64, 192], atol=3)
    np.testing.assert_allclose(drawn[75, 110], [192, 192, 64], atol=3)
    np.testing.assert_allclose(drawn[3, 3], [128, 128, 128], atol=3)
    assert Visualizer.draw_panoptic_seg_predictions is Visualizer.draw_panoptic_seg


def test_panoptic_seg_of_ids_alone(meta):
    meta.set(label_divisor=1000, thing_dataset_id_to_contiguous_id={17: 0})
    ids = torch.full((80, 120), -1)
    ids[:40], ids[40:70] = 1000, 3
    output = Visualizer(GREY, meta).draw_panoptic_seg(ids, None)
    assert sorted(t.get_text() for t in output.ax.texts) == ["cat", "sky"]
    assert not changed(output)[75:, 60:].any()


def test_nothing_panoptic(meta):
    for mode in ColorMode:
        visualizer = Visualizer(GREY, meta, instance_mode=mode)
        output = visualizer.draw_panoptic_seg(torch.zeros(80, 120, dtype=torch.int32), [])
        assert not changed(output).any()


def test_dataset_dict(meta, tmp_path):
    labels = np.full((80, 120), 255, dtype=np.uint8)
    labels[:15] = 1
    Image.fromarray(labels).save(tmp_path / "labels.png")
    ids = np.zeros((80, 120, 3), dtype=np.uint8)
    ids[65:] = (1, 2, 0)  # 513
    Image.fromarray(ids).save(tmp_path / "ids.png")
    annotation = {
        "bbox": [30, 20, 60, 40],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 1,
        "segmentation": [[30, 20, 90, 20, 90, 60, 30, 60]],
        "iscrowd": 1,
        "keypoints": [60, 40, 2],
    }
    for mode in (ColorMode.IMAGE, ColorMode.SEGMENTATION):
        output = Visualizer(GREY, meta, instance_mode=mode).draw_dataset_dict(
            {
                "annotations": [annotation],
                "sem_seg_file_name": str(tmp_path / "labels.png"),
                "pan_seg_file_name": str(tmp_path / "ids.png"),
                "segments_info": [{"id": 513, "category_id": 2, "isthing": False}],
            }
        )
        texts = sorted(t.get_text() for t in output.ax.texts)
        assert texts == ["dog|crowd", "grass", "sky"]
        difference = changed(output)
        assert difference[40, 60] and difference[5, 100] and difference[75, 100]
        assert not difference[30, 110]
    assert not changed(Visualizer(GREY, meta).draw_dataset_dict({})).any()
    assert not changed(Visualizer(GREY, meta).draw_dataset_dict({"annotations": []})).any()


def test_overlay_takes_every_form():
    masks = torch.from_numpy(np.stack([square(), square(2, 2, 10, 10)]))
    polygons = [[np.array([30.0, 20, 90, 20, 90, 60, 30, 60])], [np.array([2.0, 2, 10, 2, 10, 10])]]
    boxes = np.array([[30, 20, 90, 60], [2, 2, 10, 10]])
    for given_masks in (masks, BitMasks(masks), PolygonMasks(polygons), list(masks.numpy())):
        output = Visualizer(GREY).overlay_instances(
            masks=given_masks, labels=["a", "b"], assigned_colors=["r", "g"], alpha=0.4
        )
        assert changed(output)[40, 60] and len(output.ax.texts) == 2
    for given_boxes in (boxes, boxes.tolist(), Boxes(torch.from_numpy(boxes))):
        output = Visualizer(GREY).overlay_instances(boxes=given_boxes, labels=["a", "b"])
        assert [t.get_text() for t in output.ax.texts] == ["a", "b"]  # the largest first
        assert tuple(output.ax.texts[0].get_position()) == (30, 20)
    rotated = np.array([[60, 40, 20, 10, 30], [60, 40, 60, 30, 0]])
    output = Visualizer(GREY).overlay_instances(boxes=rotated, labels=["a", "b"])
    assert [t.get_text() for t in output.ax.texts] == ["b", "a"]
    points = np.array([[[60, 40, 1.0]]])
    assert len(Visualizer(GREY).overlay_instances(keypoints=points).ax.patches) == 1


def test_overlay_of_nothing_and_of_uneven_lists():
    assert not changed(Visualizer(GREY).overlay_instances()).any()
    assert not changed(Visualizer(GREY).overlay_instances(boxes=np.zeros((0, 4)), labels=[])).any()
    with pytest.raises(AssertionError):
        Visualizer(GREY).overlay_instances(boxes=np.zeros((2, 4)), labels=["a"])
    with pytest.raises(AssertionError):
        Visualizer(GREY).overlay_instances(boxes=np.zeros((2, 4)), masks=[square()])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (([0, 1], None, ["a", "b"]), ["a", "b"]),
        (([0, 1], [0.5, 0.996], ["a", "b"]), ["a 50%", "b 100%"]),
        (([0, 1], None, None), ["0", "1"]),
        (([0, 1], None, []), ["0", "1"]),
        ((None, [0.25], None), ["25%"]),
        ((None, None, ["a"]), None),
        (([1], None, ["a", "b"], [1]), ["b|crowd"]),
        (([1], [0.5], ["a", "b"], [0]), ["b 50%"]),
        (([], [], ["a"]), []),
    ],
)
def test_create_text_labels(arguments, expected):
    assert _create_text_labels(*arguments) == expected


# Frames


def frame_instances(boxes, classes, **fields):
    return instances(
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        pred_classes=torch.tensor(classes, dtype=torch.int64),
        scores=torch.full((len(classes),), 0.9),
        **fields,
    )


def box_colors(output):
    """Colours of the drawn boxes by their left side."""
    return {round(p.get_x()): p.get_edgecolor()[:3] for p in output.ax.patches}


def test_objects_keep_their_colours(meta):
    np.random.seed(0)
    video = VideoVisualizer(meta)
    first = box_colors(
        video.draw_instance_predictions(
            GREY, frame_instances([[5, 5, 40, 40], [60, 20, 110, 70]], [0, 1])
        )
    )
    moved = frame_instances([[62, 21, 112, 71], [6, 5, 41, 40]], [1, 0])
    second = box_colors(video.draw_instance_predictions(GREY, moved))
    assert second[62] == first[60] and second[6] == first[5]
    assert video.draw_instance_predictions(GREY, frame_instances([], [])).img is not None
    # Missed for some frames, it is still known; of another class, it is another object.
    for _ in range(3):
        video.draw_instance_predictions(GREY, frame_instances([[6, 5, 41, 40]], [0]))
    back = box_colors(video.draw_instance_predictions(GREY, moved))
    assert back[62] == first[60]
    remembered = len(video._old_instances)
    for _ in range(9):
        video.draw_instance_predictions(GREY, frame_instances([[6, 5, 41, 40]], [0]))
    assert remembered == 2 and len(video._old_instances) == 1


def test_colours_by_id_and_period(meta):
    video = VideoVisualizer(meta)
    boxes = [[5, 5, 40, 40], [60, 20, 110, 70]]
    colors = box_colors(
        video.draw_instance_predictions(GREY, frame_instances(boxes, [0, 1], ID=[10, 11]))
    )
    swapped = box_colors(
        video.draw_instance_predictions(GREY, frame_instances(boxes, [0, 1], ID=[11, 12]))
    )
    assert swapped[5] == colors[60] and swapped[60] != swapped[5]
    assert set(video._assigned_colors) == {11, 12}
    meta.set(period_threshold=2)
    young = frame_instances(boxes, [0, 1], ID=[11, 12], ID_period=[1, 5])
    assert set(box_colors(video.draw_instance_predictions(GREY, young))) == {60}
    given = frame_instances(boxes, [0, 1], COLOR=[RED, (0.0, 0.0, 1.0)])
    assert box_colors(video.draw_instance_predictions(GREY, given))[5] == RED


def test_too_many_ids():
    meta = MetadataCatalog.get("tests_video_few")
    meta.set(max_num_instances=1)
    video = VideoVisualizer(meta)
    with pytest.raises(AssertionError, match="More than 1 ids"):
        video.draw_instance_predictions(
            GREY, frame_instances([[5, 5, 40, 40], [60, 20, 110, 70]], [0, 1], ID=[1, 2])
        )
    MetadataCatalog.remove("tests_video_few")


def test_frames_with_maps(meta):
    video = VideoVisualizer(meta, ColorMode.SEGMENTATION)
    ids, segments = panoptic()
    outputs = [video.draw_panoptic_seg_predictions(GREY, ids, segments) for _ in range(2)]
    drawn = [output.get_image() for output in outputs]
    np.testing.assert_array_equal(drawn[0], drawn[1])  # the cat has its colour of before
    texts = sorted(t.get_text() for t in outputs[0].ax.texts)
    assert texts == ["cat", "grass", "sky"]
    masked = two_instances()
    assert changed(VideoVisualizer(meta).draw_instance_predictions(GREY, masked))[20, 30]
    labels = np.ones((80, 120), dtype=np.int64)
    assert changed(video.draw_sem_seg(GREY, torch.from_numpy(labels))).all()
    with pytest.raises(AssertionError, match="not supported"):
        VideoVisualizer(meta, ColorMode.IMAGE_BW)
