"""Reading images, and making ground truth of annotations."""

import io
import types

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import MetadataCatalog, detection_utils as utils, transforms as T
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from PIL import Image

SQUARE = [2.0, 2, 8, 2, 8, 8, 2, 8]


def annotation(**changes):
    base = {"bbox": [2.0, 2, 6, 6], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}
    return base | changes


def rle(mask):
    return mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.randint(0, 256, (5, 7, 3), dtype=np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    return str(path), pixels


# ---- images


def test_read_formats(picture):
    path, pixels = picture
    np.testing.assert_array_equal(utils.read_image(path), pixels)
    np.testing.assert_array_equal(utils.read_image(path, "RGB"), pixels)
    np.testing.assert_array_equal(utils.read_image(path, "BGR"), pixels[:, :, ::-1])
    grey = utils.read_image(path, "L")
    assert grey.shape == (5, 7, 1)
    np.testing.assert_array_equal(grey[..., 0], np.asarray(Image.fromarray(pixels).convert("L")))
    hsv = utils.read_image(path, "HSV")
    np.testing.assert_array_equal(hsv, np.asarray(Image.fromarray(pixels).convert("HSV")))


def test_yuv_there_and_back(picture):
    path, pixels = picture
    yuv = utils.read_image(path, "YUV-BT.601")
    luma = pixels / 255.0 @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(yuv[..., 0], luma)
    assert np.abs(yuv[..., 1]).max() <= 0.436 and np.abs(yuv[..., 2]).max() <= 0.615
    np.testing.assert_allclose(utils.convert_image_to_rgb(yuv, "YUV-BT.601"), pixels, atol=0.05)


def test_convert_to_rgb(picture):
    path, pixels = picture
    np.testing.assert_array_equal(
        utils.convert_image_to_rgb(utils.read_image(path, "BGR"), "BGR"), pixels
    )
    tensor = torch.from_numpy(pixels.copy()).float()
    np.testing.assert_array_equal(utils.convert_image_to_rgb(tensor, "RGB"), pixels)
    grey = utils.convert_image_to_rgb(utils.read_image(path, "L"), "L")
    assert grey.shape == pixels.shape and (grey[..., 0] == grey[..., 2]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    shown = np.zeros((16, 24, 3), dtype=np.uint8)
    shown[:8, :8, 0] = 255  # red in the upper left
    shown[8:, 16:, 1] = 255  # green in the lower right
    # What has to be stored for the viewer to see this, by the Exif standard.
    stored = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.transpose(1, 0, 2),
        6: np.rot90(shown, 1),
        7: np.rot90(shown, 2).transpose(1, 0, 2),
        8: np.rot90(shown, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    path = str(tmp_path / "photo.png")
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    np.testing.assert_array_equal(utils.read_image(path, "RGB"), shown)


def test_broken_exif_is_no_obstacle():
    def broken():
        raise SyntaxError("not a TIFF file")

    image = types.SimpleNamespace(load=list, getexif=broken)
    assert utils._apply_exif_orientation(image) is image


def test_unreadable_images(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.jpg"):
        utils.read_image(str(tmp_path / "nothing.jpg"))
    buffer = io.BytesIO()
    Image.fromarray(np.random.randint(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "jpeg")
    (tmp_path / "half.jpg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(OSError, match="truncated"):
        utils.read_image(str(tmp_path / "half.jpg"), "RGB")


def test_sizes():
    image = np.zeros((5, 7, 3))
    entry = {}
    utils.check_image_size(entry, image)
    assert entry == {"width": 7, "height": 5}
    utils.check_image_size(entry, image)
    wrong = {"width": 5, "height": 7, "file_name": "x.jpg"}
    with pytest.raises(utils.SizeMismatchError, match=r"x.jpg, got \(7, 5\), expect \(5, 7\)"):
        utils.check_image_size(wrong, image)
    assert issubclass(utils.SizeMismatchError, ValueError)


# ---- annotations


def test_transform_polygons():
    polygon = np.array(SQUARE)
    tfms = [T.ResizeTransform(10, 10, 20, 40), T.HFlipTransform(40)]
    out = utils.transform_instance_annotations(
        annotation(segmentation=[polygon, SQUARE]), tfms, (20, 40)
    )
    np.testing.assert_allclose(out["bbox"], [8, 4, 32, 16])
    assert out["bbox_mode"] == BoxMode.XYXY_ABS
    expected = [32, 4, 8, 4, 8, 16, 32, 16]
    np.testing.assert_allclose(out["segmentation"], [expected, expected])
    # The caller's array is not written to.
    np.testing.assert_array_equal(polygon, SQUARE)


def test_transform_rle():
    mask = np.zeros((10, 12), dtype=np.uint8)
    mask[2:8, 2:8] = 1
    tfms = T.TransformList([T.HFlipTransform(12)])
    out = utils.transform_instance_annotations(annotation(segmentation=rle(mask)), tfms, (10, 12))
    np.testing.assert_array_equal(out["segmentation"], mask[:, ::-1])
    np.testing.assert_allclose(out["bbox"], [4, 2, 10, 8])
    with pytest.raises(AssertionError):
        utils.transform_instance_annotations(annotation(segmentation=rle(mask)), tfms, (10, 11))


def test_boxes_are_clipped():
    tfms = T.TransformList([T.CropTransform(4, 4, 3, 2)])
    out = utils.transform_instance_annotations(annotation(), tfms, (2, 3))
    np.testing.assert_allclose(out["bbox"], [0, 0, 3, 2])


def test_bad_annotations():
    tfms = T.TransformList([])
    with pytest.raises(ValueError, match="Cannot transform segmentation of type.*int"):
        utils.transform_instance_annotations(annotation(segmentation=3), tfms, (10, 10))
    with pytest.raises(NotImplementedError, match="keypoints"):
        utils.transform_instance_annotations(annotation(keypoints=[1, 1, 1]), tfms, (10, 10))


def test_instances_of_polygons():
    instances = utils.annotations_to_instances(
        [annotation(segmentation=[SQUARE]), annotation(segmentation=[SQUARE], category_id=3)],
        (10, 12),
    )
    assert isinstance(instances, Instances) and instances.image_size == (10, 12)
    assert instances.gt_boxes.tensor.tolist() == [[2, 2, 8, 8]] * 2
    assert instances.gt_classes.tolist() == [1, 3] and instances.gt_classes.dtype == torch.int64
    assert isinstance(instances.gt_masks, PolygonMasks)
    for bad in ([[0.0, 0, 1, 1]], [[0.0] * 7]):
        with pytest.raises(ValueError, match="mask_format=='polygon'"):
            utils.annotations_to_instances([annotation(segmentation=bad)], (10, 12))


def test_instances_of_bitmasks():
    mask = np.zeros((10, 12), dtype=np.uint8)
    mask[2:8, 2:8] = 1
    forms = [[SQUARE], rle(mask), mask, mask[::-1][::-1].astype(np.uint8)]
    instances = utils.annotations_to_instances(
        [annotation(segmentation=x) for x in forms], (10, 12), mask_format="bitmask"
    )
    assert isinstance(instances.gt_masks, BitMasks)
    for form in instances.gt_masks.tensor:
        np.testing.assert_array_equal(form.numpy(), mask.astype(bool))
    with pytest.raises(ValueError, match="to BitMasks"):
        utils.annotations_to_instances([annotation(segmentation=3)], (10, 12), "bitmask")
    with pytest.raises(AssertionError, match="2 dimensions"):
        utils.annotations_to_instances([annotation(segmentation=mask[None])], (10, 12), "bitmask")
    with pytest.raises(AssertionError, match="neither"):
        utils.annotations_to_instances([annotation(segmentation=mask)], (10, 12), "neither")


def test_no_instances():
    for mask_format in ("polygon", "bitmask"):
        instances = utils.annotations_to_instances([], (10, 12), mask_format)
        assert len(instances) == 0 and instances.gt_boxes.tensor.shape == (0, 4)
        assert instances.gt_classes.dtype == torch.int64
        assert not instances.has("gt_masks")
        assert len(utils.filter_empty_instances(instances)) == 0


def test_filter_empty_instances():
    instances = Instances((10, 10))
    instances.gt_boxes = Boxes([[0, 0, 5, 5], [1, 1, 1, 5], [0, 0, 4, 4]])
    masks = torch.zeros(3, 10, 10, dtype=torch.bool)
    masks[:2, 0, 0] = True
    instances.gt_masks = BitMasks(masks)
    assert len(utils.filter_empty_instances(instances)) == 1
    assert len(utils.filter_empty_instances(instances, by_mask=False)) == 2
    kept, keep = utils.filter_empty_instances(instances, by_box=False, return_mask=True)
    assert len(kept) == 2 and keep.tolist() == [True, True, False]
    assert len(utils.filter_empty_instances(instances, by_mask=False, box_threshold=4.5)) == 1
    with pytest.raises(AssertionError):
        utils.filter_empty_instances(instances, by_box=False, by_mask=False)


def test_crop_around_an_instance():
    np.random.seed(0)
    instance = annotation(bbox=[30.0, 20, 10, 4])
    for _ in range(100):
        crop = utils.gen_crop_transform_with_instance((16, 12), (50, 60), instance)
        assert (crop.h, crop.w) == (16, 12)
        assert crop.x0 <= 35 <= crop.x0 + 12 and crop.y0 <= 22 <= crop.y0 + 16
        assert 0 <= crop.x0 <= 48 and 0 <= crop.y0 <= 34
    with pytest.raises(AssertionError, match="Crop size is larger"):
        utils.gen_crop_transform_with_instance((51, 12), (50, 60), instance)
    with pytest.raises(AssertionError, match="outside of the image"):
        utils.gen_crop_transform_with_instance((5, 5), (10, 10), instance)


def test_metadata_consistency():
    names = ["test_consistency_a", "test_consistency_b"]
    try:
        MetadataCatalog.get(names[0]).thing_classes = ["a"]
        MetadataCatalog.get(names[1]).thing_classes = ["b"]
        utils.check_metadata_consistency("thing_classes", names[:1] * 2)
        utils.check_metadata_consistency("thing_classes", [])
        with pytest.raises(ValueError, match="different metadata 'thing_classes'"):
            utils.check_metadata_consistency("thing_classes", names)
        with pytest.raises(AttributeError):
            utils.check_metadata_consistency("stuff_classes", names)
    finally:
        for name in names:
            MetadataCatalog.remove(name)


def test_augmentation_of_a_config():
    from detectron2.config import get_cfg

    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN = (640, 800)
    train = utils.build_augmentation(cfg, True)
    assert [type(x).__name__ for x in train] == ["ResizeShortestEdge", "RandomFlip"]
    assert train[0].short_edge_length == (640, 800) and not train[0].is_range
    assert train[1].horizontal
    cfg.INPUT.RANDOM_FLIP = "vertical"
    assert utils.build_augmentation(cfg, True)[1].vertical
    cfg.INPUT.RANDOM_FLIP = "none"
    assert len(utils.build_transform_gen(cfg, True)) == 1
    test = utils.build_augmentation(cfg, False)
    assert len(test) == 1 and test[0].short_edge_length == (800, 800)


def test_names_outside_the_scope():
    with pytest.raises(AttributeError, match="not part of d2lite"):
        utils.annotations_to_instances_rotated  # noqa: B018
