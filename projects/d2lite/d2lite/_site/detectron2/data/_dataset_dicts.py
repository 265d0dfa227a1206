"""What is done to the lists of entries that the catalog gives: filters, proposals, statistics."""

import itertools
import logging
import pickle
from collections import Counter

from tabulate import tabulate
from termcolor import colored

from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import log_first_n

logger = logging.getLogger(__name__)


def filter_images_with_only_crowd_annotations(dataset_dicts: list[dict]) -> list[dict]:
    """Leave out images without any annotation that is not a crowd."""
    kept = [x for x in dataset_dicts if any(ann.get("iscrowd", 0) == 0 for ann in x["annotations"])]
    removed = len(dataset_dicts) - len(kept)
    logger.info(f"Removed {removed} images with no usable annotations. {len(kept)} images left.")
    return kept


def filter_images_with_few_keypoints(dataset_dicts: list, min_keypoints_per_image: int) -> list:
    """Leave out images with fewer labelled keypoints than ``min_keypoints_per_image``."""

    def labelled(annotations: list[dict]) -> int:
        return sum(v > 0 for x in annotations for v in x.get("keypoints", ())[2::3])

    kept = [x for x in dataset_dicts if labelled(x["annotations"]) >= min_keypoints_per_image]
    removed = len(dataset_dicts) - len(kept)
    logger.info(f"Removed {removed} images with fewer than {min_keypoints_per_image} keypoints.")
    return kept


class _ArrayUnpickler(pickle.Unpickler):
    """Reads arrays and plain data only: a file of proposals has no business running code."""

    _ALLOWED = frozenset("_reconstruct scalar _frombuffer ndarray dtype encode BoxMode".split())

    def find_class(self, module: str, name: str):
        if module.split(".")[0] in ("numpy", "_codecs", "detectron2") and name in self._ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not loaded: proposals are arrays")


def load_proposals_into_dataset(dataset_dicts: list[dict], proposal_file: str) -> list[dict]:
    """Add precomputed proposals, best first, to the entries of a data set (in place).

    Args:
        dataset_dicts: entries with "image_id".
        proposal_file: pickled dict of lists over images, "ids", "boxes" (N, 4) and
            "objectness_logits" (N,), and maybe "bbox_mode" (a number of ``BoxMode``, XYXY_ABS by
            default). The older names "indexes" and "scores" work too.

    Returns:
        ``dataset_dicts`` with "proposal_boxes", "proposal_objectness_logits",
        "proposal_bbox_mode".
    """
    logger.info(f"Loading proposals from: {proposal_file}")
    with PathManager.open(proposal_file, "rb") as file:
        proposals = _ArrayUnpickler(file, encoding="latin1").load()
    for old, new in {"indexes": "ids", "scores": "objectness_logits"}.items():
        if old in proposals:
            proposals[new] = proposals.pop(old)

    index_of = {str(image_id): i for i, image_id in enumerate(proposals["ids"])}
    mode = BoxMode(proposals["bbox_mode"]) if "bbox_mode" in proposals else BoxMode.XYXY_ABS
    for record in dataset_dicts:
        i = index_of[str(record["image_id"])]
        logits = proposals["objectness_logits"][i]
        order = logits.argsort()[::-1]
        record["proposal_boxes"] = proposals["boxes"][i][order]
        record["proposal_objectness_logits"] = logits[order]
        record["proposal_bbox_mode"] = mode
    return dataset_dicts


def print_instances_class_histogram(dataset_dicts: list[dict], class_names: list[str]) -> None:
    """Log a table of the number of instances (crowds not counted) of every category.

    Args:
        dataset_dicts: entries with "annotations".
        class_names: name of every contiguous category id.

    Raises:
        AssertionError: a category id is outside of 0..len(class_names) - 1.
    """
    num_classes = len(class_names)
    annotations = itertools.chain.from_iterable(x["annotations"] for x in dataset_dicts)
    counts = Counter(x["category_id"] for x in annotations if not x.get("iscrowd", 0))
    for label in counts:
        assert 0 <= label < num_classes, f"Got invalid category_id={label} of {num_classes} classes"
    columns = min(6, num_classes * 2)
    # Long names, as those of LVIS, would make the table too wide.
    names = [x if len(x) <= 13 else x[:11] + ".." for x in class_names]
    cells = [cell for i, name in enumerate(names) for cell in (name, counts[i])]
    cells.extend([None] * (columns - len(cells) % columns))
    if num_classes > 1:
        cells.extend(["total", sum(counts.values())])
    rows = itertools.zip_longest(*[cells[i::columns] for i in range(columns)])
    headers = ["category", "#instances"] * (columns // 2)
    table = tabulate(rows, headers, tablefmt="pipe", numalign="left", stralign="center")
    message = f"Distribution of instances among all {num_classes} categories:\n"
    log_first_n(logging.INFO, message + colored(table, "cyan"), key="message")
