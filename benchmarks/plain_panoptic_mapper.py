"""The panoptic mapper as one would write it first, to measure against: plain, and slow.

Pillow resizes everything, and every segment is a mask of its own. Nothing here is used by the
library. Labels are those of `lvt_d2.data.PanopticMapper` but for how Pillow rounds.
"""

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, Instances
from PIL import Image

IGNORE = 255


class PlainPanopticMapper:
    """Maps a dataset dict of `load_coco_panoptic` to ``image``, ``instances`` and ``sem_seg``.

    Args:
        short_edge: lowest and highest length of the short side, in pixels.
        max_size: limit of the long side, in pixels.
        resize_masks: True: a mask of each segment is made and then resized. False: the PNG is
            resized once, and the masks are made of it, the harder rival.
    """

    def __init__(
        self,
        short_edge: tuple[int, int] = (640, 800),
        max_size: int = 1333,
        resize_masks: bool = True,
    ):
        self.augmentations = T.AugmentationList(
            [
                T.ResizeShortestEdge(short_edge, max_size, sample_style="range"),
                T.RandomFlip(prob=0.5, horizontal=True),
            ]
        )
        self.resize_masks = resize_masks

    def __call__(self, dataset_dict: dict) -> dict:
        result = dict(dataset_dict)
        segments = result.pop("segments_info")
        image = np.array(Image.open(result["file_name"]).convert("RGB"))
        png = np.array(Image.open(result["pan_seg_file_name"]))
        augmented = T.AugInput(image)
        transforms = self.augmentations(augmented)
        if self.resize_masks:
            ids = self._ids(png)
            masks = [
                transforms.apply_segmentation((ids == s["id"]).astype(np.uint8)).astype(bool)
                for s in segments
            ]
        else:
            ids = self._ids(transforms.apply_segmentation(png))
            masks = [ids == s["id"] for s in segments]
        result["image"] = torch.from_numpy(augmented.image.transpose(2, 0, 1).copy())
        result["sem_seg"], result["instances"] = self._targets(
            segments, masks, transforms, augmented.image.shape[:2]
        )
        return result

    def _ids(self, png: np.ndarray) -> np.ndarray:
        png = png.astype(np.int32)
        return png[..., 0] + 256 * png[..., 1] + 65536 * png[..., 2]

    def _targets(
        self,
        segments: list[dict],
        masks: list[np.ndarray],
        transforms: T.Transform,
        size: tuple[int, int],
    ) -> tuple[torch.Tensor, Instances]:
        semantic = np.full(size, IGNORE, np.int64)
        things, classes, boxes = [], [], []
        for segment, mask in zip(segments, masks, strict=True):
            semantic[mask] = 0 if segment["isthing"] else segment["category_id"]
            if segment["isthing"] and not segment["iscrowd"] and mask.any():
                x, y, w, h = segment["bbox"]
                things.append(mask)
                classes.append(segment["category_id"])
                boxes.append(transforms.apply_box(np.array([[x, y, x + w, y + h]]))[0])
        instances = Instances(size)
        instances.gt_boxes = Boxes(torch.as_tensor(np.array(boxes).reshape(-1, 4)))
        instances.gt_boxes.clip(size)
        instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
        shape = (len(things), *size)
        instances.gt_masks = BitMasks(np.stack(things) if things else np.zeros(shape, bool))
        return torch.from_numpy(semantic), instances
