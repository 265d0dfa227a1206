"""From an entry of a data set to the input of a detection model."""

import copy
import logging

import numpy as np
import torch

from detectron2.config import configurable

from . import detection_utils as utils, transforms as T

__all__ = ["DatasetMapper"]

logger = logging.getLogger(__name__)


class DatasetMapper:
    """Reads and augments an image and its annotations; also callable as ``f(cfg, is_train)``.

    An entry comes back with "image", uint8 (C, H, W); "sem_seg", int64 (H, W), if it names
    a "sem_seg_file_name"; and "instances" with boxes, classes and masks, in training.

    Args:
        is_train: keep annotations.
        augmentations: augmentations or transforms, in order.
        image_format: as for ``detection_utils.read_image``.
        use_instance_mask: keep masks.
        use_keypoint: keypoints are not part of d2lite; has to be False.
        instance_mask_format: "polygon" or "bitmask".
        keypoint_hflip_indices: not used without keypoints.
        precomputed_proposal_topk: precomputed proposals are not part of d2lite; has to be None.
        recompute_boxes: boxes around the transformed masks, tighter than transformed boxes.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: list,
        image_format: str,
        use_instance_mask: bool = False,
        use_keypoint: bool = False,
        instance_mask_format: str = "polygon",
        keypoint_hflip_indices: np.ndarray | None = None,
        precomputed_proposal_topk: int | None = None,
        recompute_boxes: bool = False,
    ):
        assert use_instance_mask or not recompute_boxes, "recompute_boxes requires instance masks"
        if use_keypoint or precomputed_proposal_topk is not None:
            raise NotImplementedError(utils.OUT_OF_SCOPE)
        self.is_train, self.image_format = is_train, image_format
        self.augmentations = T.AugmentationList(augmentations)
        self.use_instance_mask, self.instance_mask_format = use_instance_mask, instance_mask_format
        self.recompute_boxes = recompute_boxes
        logger.info(f"[DatasetMapper] Augmentations used (is_train={is_train}): {augmentations}")

    @classmethod
    def from_config(cls, cfg, is_train: bool = True) -> dict:
        augmentations = utils.build_augmentation(cfg, is_train)
        crop = cfg.INPUT.CROP.ENABLED and is_train
        if crop:
            augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "instance_mask_format": cfg.INPUT.MASK_FORMAT,
            # Either is refused.
            "use_keypoint": cfg.MODEL.KEYPOINT_ON or cfg.MODEL.LOAD_PROPOSALS,
            # A crop cuts objects, so their transformed boxes would be too large.
            "recompute_boxes": crop and cfg.MODEL.MASK_ON,
        }

    def _transform_annotations(self, dataset_dict: dict, transforms, image_shape) -> None:
        annos = [x for x in dataset_dict.pop("annotations") if x.get("iscrowd", 0) == 0]
        for annotation in annos:
            annotation.pop("keypoints", None)
            if not self.use_instance_mask:
                annotation.pop("segmentation", None)
            utils.transform_instance_annotations(annotation, transforms, image_shape)
        mask_format = self.instance_mask_format
        instances = utils.annotations_to_instances(annos, image_shape, mask_format)
        # An image without annotations has no masks to recompute from.
        if self.recompute_boxes and instances.has("gt_masks"):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        dataset_dict["instances"] = utils.filter_empty_instances(instances)

    def __call__(self, dataset_dict: dict) -> dict:
        """Map an entry in Detectron2's format, which stays as it is, to a model input."""
        dataset_dict = copy.deepcopy(dataset_dict)
        image = utils.read_image(dataset_dict["file_name"], format=self.image_format)
        utils.check_image_size(dataset_dict, image)
        sem_seg = None
        if "sem_seg_file_name" in dataset_dict:
            sem_seg = utils.read_image(dataset_dict.pop("sem_seg_file_name"), "L").squeeze(2)

        aug_input = T.AugInput(image, sem_seg=sem_seg)
        transforms = self.augmentations(aug_input)
        image, sem_seg = aug_input.image, aug_input.sem_seg
        # A copy: contiguous, as shared memory wants it, and writable, as PIL's arrays are not.
        dataset_dict["image"] = torch.as_tensor(np.array(image.transpose(2, 0, 1), order="C"))
        if sem_seg is not None:
            dataset_dict["sem_seg"] = torch.as_tensor(sem_seg.astype("long"))
        if not self.is_train:
            dataset_dict.pop("annotations", None)
        elif "annotations" in dataset_dict:
            self._transform_annotations(dataset_dict, transforms, image.shape[:2])
        return dataset_dict
