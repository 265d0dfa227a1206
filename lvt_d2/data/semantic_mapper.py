"""Dataset mapper of semantic segmentation; labels are decoded while loading."""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import MetadataCatalog, transforms as T

from lvt_d2.data.image_mapper import MIN_SIZE, ImageMapper
from lvt_d2.data.semantic_labels import read_sem_seg
from lvt_d2.errors import ConfigError


class SemanticMapper(ImageMapper):
    """Maps a dataset dict to what Detectron2's ``SemanticSegmentor`` reads.

    In training the result has ``image`` (3, H, W), uint8, or float32 where it is padded with a
    mean colour, and ``sem_seg`` (H, W) int64, void 255. At test time it has ``image`` and every key
    of the dataset dict. In both it has ``height`` and ``width``, those of the file. Images that are
    void all over are kept: every crop of the published pipeline may be.

    Args:
        is_train: whether labels are read.
        augmentations: Detectron2 augmentations, applied to image and labels together.
        image_format: channel order of ``image``, ``"RGB"`` or ``"BGR"``; the model's must agree.
        dataset_name: registered set, or sets of equal classes, whose metadata say how labels are
            stored; needed in training.
        min_size: least side in pixels of an image once it is augmented.
        skip_broken: as for `PanopticMapper`.

    Raises:
        ConfigError: an argument can't be what is meant.
        DatasetError: when called, where a file is missing or broken, image and labels differ in
            size, or labels are outside the class list; the message names the file. With
            ``skip_broken``: 50 images in a row were skipped by one worker.
    """

    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        dataset_name: str | Sequence[str] | None = None,
        min_size: int = MIN_SIZE,
        skip_broken: bool = False,
    ):
        super().__init__(is_train, augmentations, image_format, min_size, skip_broken)
        if is_train and not dataset_name:
            raise ConfigError(
                "the mapper's dataset_name is missing; in training it takes the names of "
                "dataloader.train.dataset.names, whose metadata say how labels are stored"
            )
        self._metadata = None
        if dataset_name:
            first = dataset_name if isinstance(dataset_name, str) else dataset_name[0]
            # Kept, not looked up in workers: spawned ones don't know the user's own sets.
            self._metadata = MetadataCatalog.get(first)

    def _map(self, result: dict) -> dict:
        image = self._read_image(result)
        if not self.is_train:
            augmented = T.AugInput(image)
            self.augmentations(augmented)
            result["image"] = self._to_tensor(augmented.image, result)
            return result
        augmented = T.AugInput(image, sem_seg=read_sem_seg(result, self._metadata))
        self.augmentations(augmented)
        result.pop("segments_info", None)
        result["image"] = self._to_tensor(augmented.image, result)
        result["sem_seg"] = torch.from_numpy(augmented.sem_seg.astype(np.int64))
        return result
