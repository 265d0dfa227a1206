import copy
import pickle

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from PIL import Image

from lvt_d2.data import PanopticMapper, ResizeKeepRatio, read_panoptic_ids
from lvt_d2.data.builtin import coco_sample_paths
from lvt_d2.data.coco_panoptic import load_coco_panoptic
from lvt_d2.data.panoptic_png import ids_to_rgb
from lvt_d2.errors import ConfigError, DatasetError

from .conftest import tiny_ids


def mapper(*augmentations, is_train=True, image_format="RGB", **options):
    return PanopticMapper(
        is_train, augmentations=augmentations, image_format=image_format, **options
    )


def official_labels(sem_seg: np.ndarray) -> np.ndarray:
    """Things 53, stuff 0..52, as the published labels look once things are one class."""
    return np.where(sem_seg == 0, 53, np.where(sem_seg == 255, 255, sem_seg - 1))


@pytest.mark.parametrize("stem", ["142238", "439180"])
def test_published_training_data(goldens, coco_sample, stem):
    expected = np.load(goldens / "official/panextra.npz")
    meta = MetadataCatalog.get("coco_sample_panoptic").as_dict()
    dicts = load_coco_panoptic(*coco_sample_paths(str(coco_sample.parent)).values(), meta)
    (sample,) = (d for d in dicts if d["image_id"] == int(stem))
    result = mapper(ResizeKeepRatio(800, 1333))(sample)
    instances = result["instances"]

    boxes = expected[f"traindata_boxes_{stem}"]
    np.testing.assert_allclose(instances.gt_boxes.tensor.numpy(), boxes, atol=1e-3)
    labels = expected[f"traindata_labels_{stem}"]
    np.testing.assert_array_equal(instances.gt_classes.numpy(), labels)
    masks = instances.gt_masks.tensor.numpy()
    areas = expected[f"traindata_mask_area_{stem}"]
    np.testing.assert_array_equal(masks.sum((1, 2)), areas.astype(np.int64))

    seg = expected[f"traindata_seg_{stem}"][0].astype(np.int64)
    h, w = masks.shape[1:]
    pads = [(0, -h % 32), (0, -w % 32)]
    found = np.pad(official_labels(result["sem_seg"].numpy()), pads, constant_values=255)
    things_then_stuff = np.where(seg == 255, 255, np.where(seg < 80, 53, seg - 80))
    np.testing.assert_array_equal(found[::4, ::4], things_then_stuff)
    padded = np.pad(masks, [(0, 0), *pads])[:, ::4, ::4]
    bits = np.unpackbits(expected[f"traindata_masks_sub4_bits_{stem}"])[: padded.size]
    np.testing.assert_array_equal(padded.ravel(), bits.astype(bool))


def test_training_sample(tiny):
    sample = tiny.load()[0]
    before = copy.deepcopy(sample)
    result = mapper()(sample)
    assert sample == before
    ids = tiny_ids()
    assert result["image"].shape == (3, 40, 60)
    assert result["image"].dtype == torch.uint8
    instances = result["instances"]
    assert instances.image_size == (40, 60)
    assert instances.gt_classes.tolist() == [0, 1]  # the crowd gives no instance
    np.testing.assert_array_equal(instances.gt_masks.tensor[0].numpy(), ids == 7)
    np.testing.assert_array_equal(instances.gt_masks.tensor[1].numpy(), ids == 70001)
    assert instances.gt_boxes.tensor.tolist() == [[5, 10, 20, 30], [15, 15, 30, 35]]
    semantic = result["sem_seg"].numpy()
    assert result["sem_seg"].dtype == torch.int64
    expected = np.select([ids == 0, ids == 70000, ids == 300], [255, 2, 1], 0)
    np.testing.assert_array_equal(semantic, expected)  # crowds are things here
    assert "segments_info" not in result
    assert result["file_name"] == sample["file_name"]
    assert result["image_id"] == 2


def test_image_and_labels_move_together(tiny):
    result = mapper(T.RandomFlip(prob=1.0), T.CropTransform(4, 2, 40, 32))(tiny.load()[0])
    ids = tiny_ids()[:, ::-1][2:34, 4:44]
    masks = result["instances"].gt_masks.tensor.numpy()
    np.testing.assert_array_equal(masks[0], ids == 7)
    np.testing.assert_array_equal(result["sem_seg"].numpy() == 255, ids == 0)
    pixels = np.asarray(Image.open(tiny.images / "2.jpg"))[:, ::-1][2:34, 4:44]
    np.testing.assert_array_equal(result["image"].permute(1, 2, 0).numpy(), pixels)
    # JSON boxes, flipped, cropped, and clipped to what is left.
    assert result["instances"].gt_boxes.tensor[1].tolist() == [26, 13, 40, 32]


def test_boxes_of_masks(tiny):
    tiny.edit(lambda c: c["annotations"][1]["segments_info"][2].update(bbox=[0, 0, 50, 38]))
    sample = tiny.load()[0]
    assert mapper()(sample)["instances"].gt_boxes.tensor[0].tolist() == [0, 0, 50, 38]
    tight = mapper(box_source="masks")(sample)["instances"].gt_boxes.tensor
    assert tight[0].tolist() == [5, 10, 20, 30]


def test_things_that_a_crop_leaves_out(tiny):
    result = mapper(T.CropTransform(21, 0, 39, 40))(tiny.load()[0])
    assert result["instances"].gt_classes.tolist() == [1]
    result = mapper(T.CropTransform(31, 0, 29, 34), min_size=8)(tiny.load()[0])
    assert len(result["instances"]) == 0
    assert result["instances"].gt_masks.tensor.shape == (0, 34, 29)
    assert result["instances"].gt_boxes.tensor.shape == (0, 4)


def test_boxes_under_a_pixel_are_void(tiny):
    tiny.edit(lambda c: c["annotations"][1]["segments_info"][2].update(bbox=[5, 10, 15, 0.5]))
    result = mapper()(tiny.load()[0])
    assert result["instances"].gt_classes.tolist() == [1]
    np.testing.assert_array_equal(result["sem_seg"].numpy()[tiny_ids() == 7], 255)


def test_padding_of_a_crop_is_ignored(tiny):
    result = mapper(T.FixedSizeCrop((64, 64)))(tiny.load()[0])
    assert result["sem_seg"].shape == (64, 64)
    assert (result["sem_seg"][40:] == 255).all()
    assert not result["instances"].gt_masks.tensor[:, 40:].any()


def test_detectron2s_resize_works_too(tiny):
    result = mapper(T.ResizeShortestEdge(80, 1000))(tiny.load()[0])
    assert result["image"].shape == (3, 80, 120)
    assert result["sem_seg"].shape == (80, 120)
    assert set(result["sem_seg"].unique().tolist()) == {0, 1, 2, 255}


@pytest.mark.parametrize("resize", [ResizeKeepRatio(80), T.ResizeShortestEdge(80, 1000)])
def test_more_segments_than_a_byte_holds(tiny, resize):
    ids = np.arange(1, 301).repeat(8).reshape(40, 60).astype(np.int32)
    for path in tiny.pngs.iterdir():
        Image.fromarray(ids_to_rgb(ids)).save(path)
    segments = [
        {"id": i, "category_id": 3 if i % 2 else 9, "bbox": [0, 0, 60, 40], "area": 8}
        for i in range(1, 301)
    ]
    tiny.edit(lambda c: [a.update(segments_info=segments) for a in c["annotations"]])
    result = mapper(resize)(tiny.load()[0])
    assert len(result["instances"]) == 150
    assert (result["instances"].gt_masks.tensor.sum((1, 2)) == 32).all()
    np.testing.assert_array_equal(result["sem_seg"].numpy()[::2, ::2], (ids + 1) % 2)


def test_channel_order(tiny):
    sample = tiny.load()[0]
    rgb = mapper()(sample)["image"]
    bgr = mapper(image_format="BGR")(sample)["image"]
    assert torch.equal(rgb.flip(0), bgr)


def test_ignore_label(tiny):
    semantic = mapper(ignore_label=99)(tiny.load()[0])["sem_seg"]
    np.testing.assert_array_equal(semantic.numpy() == 99, tiny_ids() == 0)


def test_test_time(tiny):
    sample = tiny.load()[0]
    result = mapper(ResizeKeepRatio(80), is_train=False)(sample)
    assert result["image"].shape == (3, 80, 120)
    assert (result["height"], result["width"]) == (40, 60)
    assert {key: result[key] for key in sample} == sample
    assert "instances" not in result and "sem_seg" not in result


def test_images_without_labels_at_test_time(tiny):
    sample = {"file_name": str(tiny.images / "2.jpg"), "image_id": 2}
    result = mapper(is_train=False)(sample)
    assert (result["height"], result["width"]) == (40, 60)
    with pytest.raises(DatasetError, match=r"2\.jpg has no 'segments_info'"):
        mapper()(sample)


def test_pickles(tiny):
    result = pickle.loads(pickle.dumps(mapper(ResizeKeepRatio(80))))(tiny.load()[0])
    assert result["image"].shape == (3, 80, 120)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:600])


def _other_png(tiny):
    ids = tiny_ids()
    ids[ids == 11] = 12345
    Image.fromarray(ids_to_rgb(ids)).save(tiny.pngs / "2.png")


def _small(tiny):
    Image.new("RGB", (60, 20)).save(tiny.images / "2.jpg")
    tiny.edit(lambda c: c["images"][1].update(height=20))


BREAKAGES = {
    "image missing": (lambda t: (t.images / "2.jpg").unlink(), r"2\.jpg does not exist"),
    "image truncated": (lambda t: _truncate(t.images / "2.jpg"), r"2\.jpg can't be decoded"),
    "image empty": (lambda t: (t.images / "2.jpg").write_bytes(b""), r"2\.jpg can't be decoded"),
    "image of another size": (
        lambda t: Image.new("RGB", (61, 40)).save(t.images / "2.jpg"),
        r"2\.jpg has 40x61 pixels .* says 40x60",
    ),
    "image too small": (_small, r"2\.jpg has 20x60 pixels .* at least 32\. Leave it out"),
    "png missing": (lambda t: (t.pngs / "2.png").unlink(), r"2\.png does not exist"),
    "png truncated": (
        lambda t: (t.pngs / "2.png").write_bytes((t.pngs / "2.png").read_bytes()[:120]),
        r"2\.png can't be decoded",
    ),
    "png of another size": (
        lambda t: Image.new("RGB", (61, 40)).save(t.pngs / "2.png"),
        r"2\.png has 40x61 pixels .* has 40x60",
    ),
    "png of another kind": (
        lambda t: Image.new("L", (60, 40)).save(t.pngs / "2.png"),
        r"2\.png is a L image",
    ),
    "png disagrees": (_other_png, r"2\.png disagrees .*a pixel: 11; .*not list: 12345"),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_broken_training_images(tiny, caplog, name):
    change, message = BREAKAGES[name]
    change(tiny)
    bad, good = tiny.load()
    with pytest.raises(DatasetError, match=message):
        mapper()(bad)
    skipping = mapper(skip_broken=True)
    assert skipping(bad) is None
    assert skipping(bad) is None
    assert skipping.num_skipped == 2
    assert "Skipped a broken training image (2 in all)" in caplog.text
    assert bad["file_name"].rsplit(".", 1)[0][-1] in caplog.text
    assert skipping(good) is not None


def test_a_set_that_is_broken_as_a_whole(tiny):
    bad, good = tiny.load()
    (tiny.images / "2.jpg").unlink()
    skipping = mapper(skip_broken=True)
    for sample in [*[bad] * 49, good, *[bad] * 49]:
        skipping(sample)
    with pytest.raises(DatasetError, match=r"50 training images in a row .*\(99 in all\).*2\.jpg"):
        skipping(bad)


def test_nothing_is_skipped_at_test_time(tiny):
    (tiny.images / "2.jpg").unlink()
    with pytest.raises(DatasetError, match="does not exist"):
        mapper(is_train=False, skip_broken=True)(tiny.load()[0])


def test_too_small_after_augmentation(tiny):
    with pytest.raises(DatasetError, match=r"augmented, has 16x24 pixels"):
        mapper(ResizeKeepRatio(16))(tiny.load()[0])
    assert mapper(ResizeKeepRatio(16), min_size=16)(tiny.load()[0])["image"].shape[1] == 16


@pytest.mark.parametrize(
    ("option", "value"), [("box_source", "polygons"), ("image_format", "rgb"), ("min_size", -1)]
)
def test_bad_options(option, value):
    with pytest.raises(ConfigError, match=f"{option} is {value!r}"):
        mapper(**{option: value})


def test_masks_of_coco_are_the_segments(coco_sample):
    meta = MetadataCatalog.get("coco_sample_panoptic").as_dict()
    dicts = load_coco_panoptic(*coco_sample_paths(str(coco_sample.parent)).values(), meta)
    result = mapper(box_source="masks")(dicts[0])
    ids = read_panoptic_ids(dicts[0]["pan_seg_file_name"])
    things = [s for s in dicts[0]["segments_info"] if s["isthing"] and not s["iscrowd"]]
    boxes = result["instances"].gt_boxes.tensor.tolist()
    for mask, box, segment in zip(
        result["instances"].gt_masks.tensor.numpy(), boxes, things, strict=True
    ):
        np.testing.assert_array_equal(mask, ids == segment["id"])
        assert mask.sum() == segment["area"]
        x, y, w, h = segment["bbox"]
        assert box == [x, y, x + w, y + h]
