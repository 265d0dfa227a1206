"""Dataset mapper that derives instances and semantic labels from panoptic PNGs on the fly."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, Instances

from lvt_d2.data.image_mapper import MIN_SIZE, ImageMapper, check_choice
from lvt_d2.data.panoptic_png import (
    check_against_json,
    encode_ids,
    read_panoptic_ids,
    segment_codes,
)
from lvt_d2.errors import DatasetError

_BOX_SOURCES = ("json", "masks")
_THINGS_LABEL = 0  # class of all thing pixels in the semantic labels


class _Targets(NamedTuple):
    """What an image's segments say, before augmentation."""

    ids: list[int]
    semantic: np.ndarray  # label of each segment
    things: np.ndarray  # places of the segments that become instances
    classes: np.ndarray
    boxes: np.ndarray  # (n, 4) x1, y1, x2, y2, in pixels


class PanopticMapper(ImageMapper):
    """Maps a dataset dict of `load_coco_panoptic` to what Detectron2's panoptic models read.

    In training the result has ``image`` (3, H, W) uint8, ``instances`` (``gt_boxes``,
    ``gt_classes``, ``gt_masks`` as BitMasks) and ``sem_seg`` (H, W) int64: 0 for things, crowds
    included, 1.. for stuff, ``ignore_label`` for void. Crowds, and segments whose JSON box is
    under 1 pixel, give no instance; the latter are void, too, as in the published pipeline.
    At test time it has ``image`` and every key of the dataset dict.

    Args:
        is_train: whether labels are read.
        augmentations: Detectron2 augmentations, applied to image and labels together.
        image_format: channel order of ``image``, ``"RGB"`` or ``"BGR"``; the model's must agree.
        box_source: ``"json"``: the JSON's boxes go through the augmentations (published). They
            become loose when an augmentation rotates. ``"masks"``: tight boxes of the final masks.
        ignore_label: semantic label of void pixels.
        min_size: least side in pixels of an image, before and after augmentation.
        skip_broken: an unusable training image is logged, counted in ``num_skipped`` (over all
            workers of a training process) and answered with None, on which Detectron2's loader
            draws another; otherwise it raises.

    Raises:
        ConfigError: an argument can't be what is meant.
        DatasetError: when called, where a file is missing or broken, sizes or ids disagree with the
            JSON, or the image is under ``min_size``; the message names the file. With
            ``skip_broken``: 50 images in a row were skipped by one worker.
    """

    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        box_source: str = "json",
        ignore_label: int = 255,
        min_size: int = MIN_SIZE,
        skip_broken: bool = False,
    ):
        check_choice("box_source", box_source, _BOX_SOURCES)
        super().__init__(is_train, augmentations, image_format, min_size, skip_broken)
        self.box_source = box_source
        self.ignore_label = ignore_label

    def _map(self, result: dict) -> dict:
        image = self._read_image(result)
        if not self.is_train:
            augmented = T.AugInput(image)
            self.augmentations(augmented)
            result["image"] = self._to_tensor(augmented.image, result)
            return result

        segments = result.pop("segments_info", None)
        if segments is None:
            raise DatasetError(
                f"{result['file_name']} has no 'segments_info': its data set has no panoptic "
                "labels and can't be trained on; set dataloader.train.dataset.names to a labelled "
                "set"
            )
        targets = self._targets(segments)
        codes = self._read_codes(result, segments, targets)
        augmented = T.AugInput(image, sem_seg=codes)
        transforms = self.augmentations(augmented)
        codes = augmented.sem_seg
        result["image"] = self._to_tensor(augmented.image, result)
        result["instances"] = self._instances(targets, codes, transforms)
        result["sem_seg"] = self._semantic(targets, codes)
        return result

    def _read_image(self, dataset_dict: dict) -> np.ndarray:
        image = super()._read_image(dataset_dict)
        what = f"the image {dataset_dict['file_name']}"
        self._check_size(image.shape[:2], what, "Leave it out")
        return image

    def _targets(self, segments: list[dict]) -> _Targets:
        used = [s for s in segments if s["area"] > 0 and min(s["bbox"][2:]) >= 1]
        things = [i for i, s in enumerate(used) if s["isthing"] and not s["iscrowd"]]
        boxes = np.array([used[i]["bbox"] for i in things], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        semantic = [_THINGS_LABEL if s["isthing"] else s["category_id"] for s in used]
        return _Targets(
            [s["id"] for s in used],
            np.array(semantic, np.int64),
            np.array(things, np.int64),
            np.array([used[i]["category_id"] for i in things], np.int64),
            boxes,
        )

    def _read_codes(self, dataset_dict: dict, segments: list[dict], targets: _Targets):
        """The PNG as a small map (H, W) of segment codes, checked against the JSON."""
        path = dataset_dict["pan_seg_file_name"]
        ids = read_panoptic_ids(path)
        expected = (dataset_dict["height"], dataset_dict["width"])
        if ids.shape != expected:
            raise DatasetError(
                f"the panoptic PNG {path} has {ids.shape[0]}x{ids.shape[1]} pixels (height x "
                f"width), but its image has {expected[0]}x{expected[1]}; unpack images and PNGs "
                "again"
            )
        check_against_json(ids, segments, path)
        return encode_ids(ids, targets.ids)

    def _semantic(self, targets: _Targets, codes: np.ndarray) -> torch.Tensor:
        segment_of_code = segment_codes(len(targets.ids))
        size = max(256, int(segment_of_code.max(initial=0)) + 1)
        labels = torch.full((size,), self.ignore_label)
        labels[torch.from_numpy(segment_of_code)] = torch.from_numpy(targets.semantic)
        index = torch.from_numpy(codes.astype(np.int32))
        return labels.index_select(0, index.flatten()).view(index.shape)

    def _instances(
        self, targets: _Targets, codes: np.ndarray, transforms: T.Transform
    ) -> Instances:
        codes = np.ascontiguousarray(codes)
        wanted = segment_codes(len(targets.ids))[targets.things].astype(codes.dtype)
        masks = codes == wanted[:, None, None]
        # A crop may leave nothing of a thing: it can't be learnt from.
        kept = np.array([mask.any() for mask in masks], bool)
        boxes = Boxes(np.zeros((0, 4)))
        if kept.any() and self.box_source == "json":
            boxes = Boxes(torch.from_numpy(transforms.apply_box(targets.boxes[kept])))
            boxes.clip(codes.shape)
            solid = boxes.nonempty()
            boxes = boxes[solid]
            kept[kept] = solid.numpy()
        masks = BitMasks(torch.from_numpy(masks if kept.all() else masks[kept]))
        instances = Instances(tuple(codes.shape))
        instances.gt_boxes = boxes if self.box_source == "json" else masks.get_bounding_boxes()
        instances.gt_classes = torch.from_numpy(targets.classes[kept])
        instances.gt_masks = masks
        return instances
