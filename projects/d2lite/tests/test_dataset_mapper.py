"""The mapper from entries to model inputs."""

import copy

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper, transforms as T
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from PIL import Image


@pytest.fixture
def entry(tmp_path):
    pixels = np.random.randint(0, 256, (20, 30, 3), dtype=np.uint8)
    labels = np.zeros((20, 30), dtype=np.uint8)
    labels[5:10, 3:9] = 255
    Image.fromarray(pixels).save(tmp_path / "image.png")
    Image.fromarray(labels).save(tmp_path / "labels.png")
    annotations = [
        {
            "bbox": [3.0, 5, 9, 10],
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": 4,
            "segmentation": [[3.0, 5, 9, 5, 9, 10, 3, 10]],
            "keypoints": [1, 1, 1],
        },
        {"bbox": [0.0, 0, 5, 5], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "iscrowd": 1},
    ]
    return {
        "file_name": str(tmp_path / "image.png"),
        "sem_seg_file_name": str(tmp_path / "labels.png"),
        "height": 20,
        "width": 30,
        "image_id": 7,
        "annotations": annotations,
    }


def mapper(is_train=True, augmentations=(), **kwargs):
    kwargs.setdefault("image_format", "RGB")
    return DatasetMapper(is_train, augmentations=list(augmentations), **kwargs)


def test_training(entry):
    before = copy.deepcopy(entry)
    out = mapper(use_instance_mask=True, augmentations=[T.HFlipTransform(30)])(entry)
    assert entry == before
    assert set(out) == {
        "file_name", "height", "width", "image_id", "image", "sem_seg", "instances",
    }  # fmt: skip
    pixels = np.asarray(Image.open(entry["file_name"]))
    assert out["image"].dtype == torch.uint8
    np.testing.assert_array_equal(out["image"].numpy(), pixels[:, ::-1].transpose(2, 0, 1))
    assert out["sem_seg"].dtype == torch.int64
    assert (out["sem_seg"][5:10, 21:27] == 255).all() and out["sem_seg"].sum() == 30 * 255
    instances = out["instances"]
    assert instances.gt_classes.tolist() == [4]
    assert instances.gt_boxes.tensor.tolist() == [[21, 5, 27, 10]]
    assert isinstance(instances.gt_masks, PolygonMasks)


def test_inference(entry):
    out = mapper(is_train=False, augmentations=[T.Resize((40, 60))])(entry)
    assert "annotations" not in out and "instances" not in out
    assert out["image"].shape == (3, 40, 60) and out["sem_seg"].shape == (40, 60)
    assert (out["height"], out["width"]) == (20, 30)


def test_masks(entry):
    assert not mapper()(entry)["instances"].has("gt_masks")
    bitmask = mapper(use_instance_mask=True, instance_mask_format="bitmask")(entry)
    assert isinstance(bitmask["instances"].gt_masks, BitMasks)
    assert bitmask["instances"].gt_masks.tensor.sum() == 30


def test_recomputed_boxes(entry):
    entry["annotations"][0]["bbox"] = [0.0, 0, 30, 20]
    loose = mapper(use_instance_mask=True)(entry)["instances"]
    tight = mapper(use_instance_mask=True, recompute_boxes=True)(entry)["instances"]
    assert loose.gt_boxes.tensor.tolist() == [[0, 0, 30, 20]]
    assert tight.gt_boxes.tensor.tolist() == [[3, 5, 9, 10]]
    with pytest.raises(AssertionError, match="requires instance masks"):
        mapper(recompute_boxes=True)


@pytest.mark.parametrize("annotations", [[], [{"bbox": [0, 0, 1, 1], "iscrowd": 1}]])
def test_images_without_instances(entry, annotations):
    entry["annotations"] = annotations
    out = mapper(use_instance_mask=True, recompute_boxes=True)(entry)
    assert len(out["instances"]) == 0
    del entry["annotations"], entry["sem_seg_file_name"]
    out = mapper()(entry)
    assert "instances" not in out and "sem_seg" not in out


def test_empty_instances_are_left_out(entry):
    out = mapper(augmentations=[T.CropTransform(15, 0, 10, 20)])(entry)
    assert len(out["instances"]) == 0


def test_formats(entry):
    rgb = mapper()(entry)["image"]
    bgr = mapper(image_format="BGR")(entry)["image"]
    assert torch.equal(rgb.flip(0), bgr)
    assert mapper(image_format="L")(entry)["image"].shape == (1, 20, 30)


def test_wrong_sizes_keypoints_and_proposals(entry):
    entry["width"] = 31
    with pytest.raises(SizeMismatchError, match="image.png"):
        mapper()(entry)
    for arguments in ({"use_keypoint": True}, {"precomputed_proposal_topk": 3}):
        with pytest.raises(NotImplementedError, match="keypoints and precomputed proposals"):
            mapper(**arguments)


def test_from_config(entry):
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MIN_SIZE_TRAIN = (40,)
    cfg.INPUT.RANDOM_FLIP = "none"
    train = DatasetMapper(cfg)
    assert train.is_train and train.use_instance_mask and not train.recompute_boxes
    assert train.image_format == "BGR"
    assert train(entry)["image"].shape == (3, 40, 60)
    cfg.INPUT.CROP.ENABLED = True
    cropping = DatasetMapper(cfg, True)
    assert cropping.recompute_boxes
    assert isinstance(cropping.augmentations.augs[0], T.RandomCrop)
    test = DatasetMapper(cfg, is_train=False)
    assert not test.is_train and len(test.augmentations.augs) == 1
    cfg.MODEL.LOAD_PROPOSALS = True
    with pytest.raises(NotImplementedError):
        DatasetMapper(cfg, False)
