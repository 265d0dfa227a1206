"""Ground truth of registered panoptic sets for evaluators, read from the panoptic PNGs."""

from functools import cached_property, lru_cache

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from lvt_d2.data.panoptic_png import check_against_json, read_panoptic_ids
from lvt_d2.errors import DatasetError

# Evaluators that run side by side each ask for the images of the same batch.
_CACHED_MAPS = 32


@lru_cache(maxsize=_CACHED_MAPS)
def _cached_ids(path: str) -> np.ndarray:
    ids = read_panoptic_ids(path)
    ids.setflags(write=False)
    return ids


class PanopticGroundTruth:
    """Segment ids and segments of the images of a registered set.

    They are named by the model's inputs where the mapper keeps ``pan_seg_file_name`` and
    ``segments_info``, else by the registered set's own dicts.

    Args:
        dataset_name: registered; its metadata is Detectron2's of ``*_panoptic_separated`` sets.

    Attributes:
        metadata: of the set.
        available: whether the set has labels at all (metadata ``panoptic_json``).
    """

    def __init__(self, dataset_name: str):
        self.dataset_name = dataset_name
        self.metadata = MetadataCatalog.get(dataset_name)
        self.available = hasattr(self.metadata, "panoptic_json")
        self._dicts: dict | None = None

    def reset(self) -> None:
        """Forget what was read: files may change between two evaluations."""
        _cached_ids.cache_clear()

    def read(self, record: dict) -> tuple[np.ndarray, list[dict]]:
        """Ground truth of the image of one input dict.

        Returns:
            (H, W) int32 segment ids, 0 void, not to be written to; and segments with contiguous
            ``category_id``, ``isthing``, ``iscrowd``, ``id``.

        Raises:
            DatasetError: the image is unknown, or its PNG is missing, broken, or disagrees with
                the segments.
        """
        if "pan_seg_file_name" not in record or "segments_info" not in record:
            record = self._registered(record)
        path, segments = record["pan_seg_file_name"], record["segments_info"]
        ids = _cached_ids(path)
        check_against_json(ids, segments, path)
        return ids, segments

    def _registered(self, record: dict) -> dict:
        if self._dicts is None:
            self._dicts = {d["image_id"]: d for d in DatasetCatalog.get(self.dataset_name)}
        try:
            return self._dicts[record["image_id"]]
        except KeyError:
            raise DatasetError(
                f"image {record['image_id']} ({record.get('file_name')}) is not in the data set "
                f"{self.dataset_name!r}, on which it is evaluated; dataloader.test and "
                "dataloader.evaluator must name the same set"
            ) from None

    def categories(self) -> list[dict]:
        """COCO panoptic categories of the set: ``id`` (the set's own), ``name``, ``isthing``."""
        meta = self.metadata
        things = meta.thing_dataset_id_to_contiguous_id
        categories = [
            {"id": i, "name": meta.thing_classes[c], "isthing": 1} for i, c in things.items()
        ]
        stuff = meta.stuff_dataset_id_to_contiguous_id
        # Label 0 of `*_separated` sets, "things" under the id 0, is no category.
        categories += [
            {"id": i, "name": meta.stuff_classes[c], "isthing": 0}
            for i, c in stuff.items()
            if i not in things and (i, c) != (0, 0)
        ]
        return sorted(categories, key=lambda category: category["id"])

    @cached_property
    def _own_ids(self) -> dict[bool, dict[int, int]]:
        """The set's own ids by contiguous class, of things (True) and stuff (False)."""
        meta = self.metadata
        return {
            True: {c: i for i, c in meta.thing_dataset_id_to_contiguous_id.items()},
            False: {c: i for i, c in meta.stuff_dataset_id_to_contiguous_id.items()},
        }

    def to_dataset_ids(self, segments: list[dict]) -> list[dict]:
        """Copies of segments whose ``category_id`` is the set's own.

        Raises:
            ValueError: a class is beyond those of the set.
        """
        converted = []
        for segment in segments:
            own_ids = self._own_ids[bool(segment["isthing"])]
            label = segment["category_id"]
            if label not in own_ids:
                kind = "things" if segment["isthing"] else "stuff classes"
                raise ValueError(
                    f"a segment is of class {label}, but {self.dataset_name!r} has the {kind} "
                    f"{min(own_ids, default=None)}..{max(own_ids, default=None)}; the model and "
                    "the data set's metadata disagree on the classes"
                )
            converted.append({**segment, "category_id": own_ids[label]})
        return converted
