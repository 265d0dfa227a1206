"""Semantic labels of an image: from a label PNG, or derived from a panoptic PNG."""

from collections.abc import Mapping, Sequence

import numpy as np
from detectron2.data import Metadata

from lvt_d2.data.panoptic_png import (
    check_against_json,
    encode_ids,
    read_panoptic_ids,
    segment_codes,
)
from lvt_d2.data.reading import read_label_values
from lvt_d2.errors import DatasetError

IGNORE_LABEL = 255
THINGS_LABEL = 0  # of all things where they are one class
_MOST_NAMED = 8  # values in a message


def decode_values(
    values: np.ndarray, num_classes: int, reduce_zero_label: bool, what: str
) -> np.ndarray:
    """Labels of the values of a label PNG.

    Args:
        values: (H, W) of an integer type.
        num_classes: labels are 0..``num_classes`` - 1.
        reduce_zero_label: 0 is void, and class k is stored as k + 1 (ADE20K); else class k is
            stored as k. 255 is void in both.
        what: the file, for the message.

    Returns:
        (H, W) uint8, void is 255.

    Raises:
        DatasetError: there are other values.
    """
    first = int(reduce_zero_label)
    table = np.full(256, IGNORE_LABEL, np.uint8)
    table[first : first + num_classes] = np.arange(num_classes)
    unknown = table == IGNORE_LABEL
    unknown[[IGNORE_LABEL, *range(first)]] = False
    beyond = values.dtype != np.uint8 and ((values < 0) | (values > 255)).any()
    if beyond or unknown.take(values).any():
        _raise_unknown(values, num_classes, reduce_zero_label, what)
    return table.take(values)


def _raise_unknown(
    values: np.ndarray, num_classes: int, reduce_zero_label: bool, what: str
) -> None:
    first = int(reduce_zero_label)
    last = first + num_classes - 1
    found, counts = np.unique(values, return_counts=True)
    outside = ((found < first) | (found > last)) & (found != IGNORE_LABEL)
    if reduce_zero_label:
        outside &= found != 0
    found, counts = found[outside], counts[outside]
    named = ", ".join(map(str, found[:_MOST_NAMED].tolist()))
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    raise DatasetError(
        f"{what} has values outside the class list: {named}{more} ({counts.sum()} pixels). "
        f"Expected {first}..{last} for the {num_classes} classes, and "
        f"{'0 or 255' if reduce_zero_label else '255'} for void. Register the set with the classes "
        "it has (and reduce_zero_label where its 0 means void), or correct the file"
    )


def read_sem_seg(record: Mapping, metadata: Metadata) -> np.ndarray:
    """Read the semantic labels of an image.

    Args:
        record: dataset dict with ``sem_seg_file_name``, or with ``pan_seg_file_name`` and
            ``segments_info``: then things are the class 0 and stuff has its ``category_id``.
            ``height`` and ``width``, where it has them, are compared with the file's.
        metadata: of its data set.

    Returns:
        (H, W) uint8; void is 255.

    Raises:
        DatasetError: the record has no labels, or the file is missing, broken, of another size, or
            has values outside the class list.
    """
    if "sem_seg_file_name" in record:
        path = record["sem_seg_file_name"]
        labels = decode_values(
            read_label_values(path),
            len(metadata.stuff_classes),
            metadata.get("reduce_zero_label", False),
            f"the label PNG {path}",
        )
    elif "pan_seg_file_name" in record and "segments_info" in record:
        path = record["pan_seg_file_name"]
        labels = _of_panoptic(path, record["segments_info"])
    else:
        raise DatasetError(
            f"{record['file_name']} has neither 'sem_seg_file_name' nor 'pan_seg_file_name' with "
            "'segments_info': its data set has no labels; name a labelled set in "
            "dataloader.train.dataset.names or dataloader.test.dataset.names"
        )
    _check_size(labels.shape, path, record)
    return labels


def _of_panoptic(path: str, segments: Sequence[dict]) -> np.ndarray:
    ids = read_panoptic_ids(path)
    check_against_json(ids, segments, path)
    codes = encode_ids(ids, [segment["id"] for segment in segments])
    of_segment = [THINGS_LABEL if s["isthing"] else s["category_id"] for s in segments]
    code_of_segment = segment_codes(len(segments))
    table = np.full(max(256, int(code_of_segment.max(initial=0)) + 1), IGNORE_LABEL, np.uint8)
    table[code_of_segment] = of_segment
    return table[codes if codes.dtype == np.uint8 else codes.astype(np.int64)]


def _check_size(found: tuple[int, int], path: str, record: Mapping) -> None:
    expected = (record.get("height", found[0]), record.get("width", found[1]))
    if found == expected:
        return
    hint = ""
    if found == expected[::-1]:
        hint = (
            ". They look turned by 90 degrees: EXIF data of the image are followed; turn the labels"
            " likewise, or write the image again without EXIF data"
        )
    raise DatasetError(
        f"the labels {path} have {found[0]}x{found[1]} pixels (height x width), but the image "
        f"{record['file_name']} has {expected[0]}x{expected[1]}; images and labels must come from "
        f"the same release{hint}"
    )
