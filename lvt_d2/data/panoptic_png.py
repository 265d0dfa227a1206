"""Panoptic PNGs: a segment id per pixel, stored as R + 256 G + 65536 B; 0 is void."""

from collections.abc import Collection, Sequence

import numpy as np
from detectron2.utils.file_io import PathManager
from PIL import Image

from lvt_d2.data.reading import unreadable_as_dataset_error
from lvt_d2.errors import DatasetError

VOID_ID = 0
_VOID_CODE = 0
_PADDING_CODE = 255  # the value that croppings of labels are filled up with


def read_panoptic_ids(path: str) -> np.ndarray:
    """Read the segment ids of a panoptic PNG.

    Returns:
        (H, W) int32.

    Raises:
        DatasetFileNotFoundError: the file is missing.
        DatasetError: the file is truncated, no image, or not 8-bit RGB.
    """
    path = str(path)
    with (
        unreadable_as_dataset_error(f"the panoptic PNG {path}"),
        PathManager.open(path, "rb") as file,
        Image.open(file) as image,
    ):
        if image.mode != "RGB":
            raise DatasetError(
                f"{path} is a {image.mode} image; panoptic labels are 8-bit RGB PNGs whose pixels "
                "are segment ids, R + 256 G + 65536 B. Point at the folder of panoptic PNGs, or "
                "write the file again in that form"
            )
        # Pillow's own 4 bytes of a pixel are the id, little-endian, under a byte of padding.
        pixels = np.frombuffer(image.tobytes("raw", "RGBX"), "<i4")
        return (pixels & 0xFFFFFF).reshape(image.height, image.width)


def rgb_to_ids(pixels: np.ndarray) -> np.ndarray:
    """Segment ids (H, W) int32 of (H, W, 3) uint8 pixels."""
    ids = pixels[..., 2].astype(np.int32)
    ids <<= 8
    ids |= pixels[..., 1]
    ids <<= 8
    ids |= pixels[..., 0]
    return ids


def ids_to_rgb(ids: np.ndarray) -> np.ndarray:
    """Pixels (H, W, 3) uint8 of segment ids (H, W) in 0..2**24-1."""
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)


def _runs(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and lengths of the runs of equal ids in reading order (label maps have few)."""
    flat = ids.ravel()
    if not flat.size:
        return flat, np.zeros(0, np.int64)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    return flat[starts], np.diff(starts, append=flat.size)


def compare_ids(ids: np.ndarray, segment_ids: Collection[int]) -> tuple[list[int], list[int]]:
    """Where a map of ids and a list of segments disagree.

    Returns:
        ids in the list without a pixel, and ids in the map that the list lacks; both sorted.
    """
    found = set(np.unique(_runs(ids)[0]).tolist()) - {VOID_ID}
    listed = set(segment_ids)
    return sorted(listed - found), sorted(found - listed)


def check_against_json(ids: np.ndarray, segments_info: Sequence[dict], path: str) -> None:
    """Raise a DatasetError that names the ids in which a PNG and its JSON segments disagree.

    Args:
        ids: (H, W) segment ids, as `read_panoptic_ids` gives them.
        segments_info: the JSON's segments of this image.
        path: the PNG, for the message.
    """
    listed = [segment["id"] for segment in segments_info]
    problems = []
    if len(set(listed)) != len(listed):
        problems.append("the JSON lists an id twice")
    if VOID_ID in listed:
        problems.append(f"the JSON lists the id {VOID_ID}, which means void")
    missing, extra = compare_ids(ids, set(listed) - {VOID_ID})
    if missing:
        problems.append(f"segments of the JSON without a pixel: {_some(missing)}")
    if extra:
        problems.append(f"ids in the PNG that the JSON does not list: {_some(extra)}")
    if problems:
        raise DatasetError(
            f"{path} disagrees with its JSON: {'; '.join(problems)}. The PNGs and the JSON must "
            "come from the same release: unpack both again, or leave the image out"
        )


def _some(ids: Sequence[int], limit: int = 5) -> str:
    shown = ", ".join(map(str, ids[:limit]))
    return f"{shown} and {len(ids) - limit} more" if len(ids) > limit else shown


def segment_codes(count: int) -> np.ndarray:
    """Small codes for ``count`` segments: 1, 2, ... without the value used for padding."""
    codes = np.arange(1, count + 1)
    codes[codes >= _PADDING_CODE] += 1
    return codes


def encode_ids(ids: np.ndarray, segment_ids: Sequence[int]) -> np.ndarray:
    """Replace 24-bit ids by the codes of `segment_codes`, so that one small map can be augmented.

    Args:
        ids: (H, W) int32.
        segment_ids: the segments that get a code, in this order; all other ids become void.

    Returns:
        (H, W): uint8, or float32 (which every transform can handle exactly) where there are more
        segments than 8 bits hold. 0 is void.
    """
    codes = segment_codes(len(segment_ids))
    dtype = np.uint8 if len(segment_ids) < _PADDING_CODE else np.float32
    values, lengths = _runs(ids)
    if not len(segment_ids):
        return np.full(ids.shape, _VOID_CODE, dtype)
    order = np.argsort(segment_ids)
    ordered = np.asarray(segment_ids)[order]
    place = np.searchsorted(ordered, values).clip(max=len(ordered) - 1)
    run_codes = np.where(ordered[place] == values, codes[order][place], _VOID_CODE)
    return np.repeat(run_codes.astype(dtype), lengths).reshape(ids.shape)
