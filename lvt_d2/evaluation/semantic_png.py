"""Predicted label maps as PNGs: coloured for people, or for ADE20K's server."""

import colorsys
import os
import zipfile
from collections.abc import Sequence

import numpy as np
from detectron2.data import Metadata
from detectron2.utils.file_io import PathManager
from PIL import Image
from torch import Tensor

from lvt_d2.evaluation.png_writer import write_png

MAX_CLASSES = 255  # of an 8-bit PNG in which one value is not a class


def class_colors(metadata: Metadata, count: int) -> np.ndarray:
    """RGB colours (count, 3) uint8: the metadata's ``stuff_colors``, else hues far apart."""
    colors = metadata.get("stuff_colors", None)
    if colors is not None and len(colors) >= count:
        return np.asarray(colors[:count], dtype=np.uint8).reshape(count, 3)
    hues = (np.arange(count) * 0.618034) % 1
    values = [colorsys.hsv_to_rgb(hue, 0.6 + 0.2 * (i % 2), 1 - 0.2 * (i % 3)) for i, hue in
              enumerate(hues)]  # fmt: skip
    return np.round(255 * np.array(values).reshape(count, 3)).astype(np.uint8)


def png_name(record: dict) -> str:
    """File name of an image's PNG."""
    return os.path.splitext(os.path.basename(record["file_name"]))[0] + ".png"


def write_palette_png(path: str, labels: Tensor, colors: np.ndarray) -> None:
    """Write (H, W) labels as a palette PNG: its values are the labels, shown in their colours."""
    image = Image.fromarray(_as_bytes(labels)).convert("P")
    image.putpalette(colors.tobytes())
    write_png(path, image)


def write_submission_png(path: str, labels: Tensor) -> None:
    """Write (H, W) labels as ADE20K's server asks for: an 8-bit grey PNG of label + 1."""
    write_png(path, Image.fromarray(_as_bytes(labels) + np.uint8(1)))


def write_zip(path: str, folder: str, names: Sequence[str]) -> None:
    """Write a zip of files of a folder, at its top level, in the order of their names."""
    with (
        PathManager.open(path, "wb") as file,
        zipfile.ZipFile(file, "w", compression=zipfile.ZIP_STORED) as archive,  # PNGs are small
    ):
        for name in sorted(names):
            with PathManager.open(os.path.join(folder, name), "rb") as png:
                archive.writestr(name, png.read())


def _as_bytes(labels: Tensor) -> np.ndarray:
    return labels.cpu().numpy().astype(np.uint8)
