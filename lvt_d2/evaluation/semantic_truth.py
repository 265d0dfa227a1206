"""True labels of registered sets for evaluators: of a file per image, or of panoptic PNGs."""

from functools import cached_property

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from lvt_d2.data.panoptic_png import encode_ids, segment_codes
from lvt_d2.data.semantic_labels import IGNORE_LABEL, read_sem_seg
from lvt_d2.errors import DatasetError
from lvt_d2.evaluation.ground_truth import PanopticGroundTruth

_THINGS_LABEL = 0


class SemanticGroundTruth:
    """Labels of the images of a registered set.

    Sets with ``panoptic_json`` in their metadata have label 0 on things (crowds included) and 1..
    on stuff, read off the panoptic PNGs. Other sets have a label file per image, named by
    ``sem_seg_file_name`` in the model's inputs or in the set's own dicts.

    Args:
        dataset_name: registered; its metadata has ``stuff_classes``.

    Attributes:
        metadata: of the set.
        class_names: of the labels 0, 1, ...
    """

    def __init__(self, dataset_name: str):
        self.dataset_name = dataset_name
        self.metadata = MetadataCatalog.get(dataset_name)
        self.class_names = list(self.metadata.stuff_classes)
        self._panoptic = None
        if hasattr(self.metadata, "panoptic_json"):
            self._panoptic = PanopticGroundTruth(dataset_name)

    @property
    def available(self) -> bool:
        """Whether the set has labels."""
        return self._panoptic is not None or self._has_files

    @cached_property
    def _dicts(self) -> dict[str, dict]:
        return {record["file_name"]: record for record in DatasetCatalog.get(self.dataset_name)}

    @cached_property
    def _has_files(self) -> bool:
        return any("sem_seg_file_name" in record for record in self._dicts.values())

    def reset(self) -> None:
        """Forget what was read: files may change between two evaluations."""
        if self._panoptic is not None:
            self._panoptic.reset()

    def read(self, record: dict) -> np.ndarray:
        """True labels of the image of one input dict.

        Returns:
            (H, W) of an integer type, 0..K; K = ``len(class_names)`` is ignored.

        Raises:
            DatasetError: the image is unknown, or its labels are missing, broken or out of range.
        """
        if self._panoptic is not None:
            return self._of_panoptic(record)
        if "sem_seg_file_name" not in record:
            record = self._registered(record)
        labels = read_sem_seg(record, self.metadata)
        # 255 becomes K; there are no more than 255 classes where it means void.
        return np.minimum(labels, min(len(self.class_names), IGNORE_LABEL)).astype(labels.dtype)

    def _registered(self, record: dict) -> dict:
        try:
            return self._dicts[record["file_name"]]
        except KeyError:
            raise DatasetError(
                f"image {record.get('file_name')} is not in the data set {self.dataset_name!r}, on "
                "which it is evaluated; dataloader.test and dataloader.evaluator must name the "
                "same set"
            ) from None

    def _of_panoptic(self, record: dict) -> np.ndarray:
        count = len(self.class_names)
        ids, segments = self._panoptic.read(record)
        labels = [_THINGS_LABEL if s["isthing"] else s["category_id"] for s in segments]
        if max(labels, default=0) >= count:
            raise DatasetError(
                f"image {record['image_id']} has the stuff class {max(labels)}, but "
                f"{self.dataset_name!r} has only {count} stuff_classes"
            )
        codes = segment_codes(len(segments))
        table = np.full(codes.max(initial=0) + 1, count, np.uint8 if count < 256 else np.int32)
        table[codes] = labels
        return table[encode_ids(ids, [s["id"] for s in segments]).astype(np.intp)]
