"""Image files as arrays; what goes wrong, in words that name the file and the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from detectron2.data import detection_utils as utils
from detectron2.utils.file_io import PathManager
from PIL import Image, UnidentifiedImageError

from lvt_d2.errors import DatasetError, DatasetFileNotFoundError

IMAGE_FORMATS = ("RGB", "BGR")
# Pillow's modes of 16-bit grey files; "I" is theirs in older releases, and that of 32-bit ones.
WIDE_GREY_MODES = ("I;16", "I;16L", "I;16B", "I")
LABEL_MODES = ("1", "L", "P", *WIDE_GREY_MODES)
_EXIF_ORIENTATION = 0x0112
_TURNS = {  # Exif 2.3, tag 274: from the stored picture to the one to show
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_GREY_PNG = 0  # colour type in a PNG's header


@contextmanager
def unreadable_as_dataset_error(what: str) -> Iterator[None]:
    """Turn the errors of opening and decoding an image file into a `DatasetError`.

    Args:
        what: the file, for the message: ``"the image PATH"``.

    Raises:
        DatasetFileNotFoundError: the file is missing.
        DatasetError: it is truncated or no image.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise DatasetFileNotFoundError(
            f"{what} does not exist; datasets/README.md shows where it belongs, and "
            "datasets/check.py lists what else is missing"
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DatasetError(
            f"{what} can't be decoded ({error}); it is truncated or no image. Unpack or download "
            "it again; datasets/check.py --full finds all such files"
        ) from error


def read_image(path: str, image_format: str) -> np.ndarray:
    """Read an image as 8-bit colour, turned the way its EXIF data says.

    Palettes are looked up, grey is repeated, transparency is dropped, and of 16 bits the upper 8
    are kept.

    Args:
        path: the file.
        image_format: channel order, one of `IMAGE_FORMATS`.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DatasetFileNotFoundError: the file is missing.
        DatasetError: it is truncated, no image, or has values that are neither 8 nor 16 bits.
    """
    with (
        unreadable_as_dataset_error(f"the image {path}"),
        PathManager.open(path, "rb") as file,
        Image.open(file) as image,
    ):
        upright = _upright(image)
        if image.mode in WIDE_GREY_MODES or image.mode == "F":
            return _upper_bits(upright, path)
        return utils.convert_PIL_to_numpy(upright, image_format)


def _upright(image: Image.Image) -> Image.Image:
    """Turn a picture the way its camera says; one with damaged EXIF data stays as it is."""
    image.load()  # what follows must not hide that pixels are damaged
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # metadata can be damaged in many ways; the pixels are fine
        return image
    method = _TURNS.get(orientation)
    return image if method is None else image.transpose(method)


def _upper_bits(image: Image.Image, path: str) -> np.ndarray:
    levels = np.asarray(image)
    if image.mode == "F" or levels.min() < 0 or levels.max() > 0xFFFF:
        raise DatasetError(
            f"the image {path} has 32-bit pixels (Pillow's mode {image.mode}); expected 8 or 16 "
            "bits. Write it again as an 8-bit JPEG or PNG"
        )
    return np.repeat((levels >> 8).astype(np.uint8)[:, :, None], 3, axis=2)


def read_label_values(path: str) -> np.ndarray:
    """Read the values of a label PNG as they are stored, turned the way its EXIF data says.

    Returns:
        (H, W): uint8 of grey files of up to 8 bits and of palette files (their indices), an
        integer type that holds 16 bits otherwise.

    Raises:
        DatasetFileNotFoundError: the file is missing.
        DatasetError: it is truncated, no image, or holds colours or lossy values.
    """
    with (
        unreadable_as_dataset_error(f"the label PNG {path}"),
        PathManager.open(path, "rb") as file,
        Image.open(file) as image,
    ):
        if image.mode not in LABEL_MODES or image.format == "JPEG":
            raise DatasetError(
                f"the label PNG {path} is a {image.format} image of mode {image.mode}; expected "
                "one value per pixel: a grey PNG of up to 16 bits, or a palette PNG whose indices "
                "are the labels. Write colours back as labels first"
            )
        step = _grey_step(file) if image.format == "PNG" else 1
        values = np.asarray(_upright(image))
        if image.mode == "1":
            return values.astype(np.uint8)
        return values // step if step > 1 else values


def _grey_step(file: BinaryIO) -> int:
    """By how much Pillow spreads the values of a PNG of 2 or 4 bits over 0..255; 1 otherwise."""
    position = file.tell()
    file.seek(24)  # in the header, which comes first
    depth, color_type = file.read(2)
    file.seek(position)
    return 255 // (2**depth - 1) if color_type == _GREY_PNG and depth in (2, 4) else 1
