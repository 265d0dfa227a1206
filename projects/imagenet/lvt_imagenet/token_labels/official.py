"""Label maps in the published format: one file of tensors per image."""

import io
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from lvt_d2.errors import DatasetError, DatasetFileNotFoundError
from lvt_imagenet.token_labels.batch import LabelMap
from lvt_imagenet.token_labels.names import folder_of

# Of the zip format: fields of the end of its directory, of the directory's entries, of members.
_END_OF_DIRECTORY = b"PK\5\6"
_END = struct.Struct("<10xHII")  # entries, size, offset of the first
_ENTRY = struct.Struct("<10xH4xI4xI3H8xI")  # method, CRC-32, size, lengths of 3 texts, offset
_LOCAL = struct.Struct("<26x2H")  # lengths of two texts
_NUMPY_KNOWS = (torch.float16, torch.float32, torch.float64)
_EXPONENT = 0x7C00  # bits of a float16 that are all set in infinity and NaN
_EXACT_IN_HALF = 2049  # class counts up to this: float16 holds all integers to 2048


class OfficialLabels:
    """A folder of ``<class>/<image stem>.pt``, each a tensor (2, k, H, W).

    ``[0]`` are the scores of the k best classes of every cell, ``[1]`` the classes, as floating
    point numbers too. Files are read with ``weights_only=True``.

    Args:
        root: the folder.
        num_classes: indices of classes must be below it.

    Raises:
        DatasetFileNotFoundError: ``root`` is no folder.
    """

    def __init__(self, root: str | os.PathLike, num_classes: int):
        self.root = Path(root)
        self.num_classes = num_classes
        if not self.root.is_dir():
            raise DatasetFileNotFoundError(
                f"The folder of token labels {self.root} does not exist. Write one with "
                "make_token_labels.py, or unpack the published files there."
            )
        self._by_stem: dict[str, Path] | None = None
        self._layouts: dict[bytes, tuple[np.dtype, tuple[int, ...]]] = {}

    def read(self, class_name: str, stem: str) -> LabelMap:
        """The label map of an image.

        Args:
            class_name: name of the image's class; where that is no folder here, the image's stem
                is searched in all of them.
            stem: the image's file name without folder and suffix.

        Raises:
            DatasetFileNotFoundError: there is no such file.
            DatasetError: it is damaged, of another shape, or of other classes.
        """
        path = official_path(self.root, class_name, stem)
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            path = self._search(path)
            raw = path.read_bytes()
        content = self._read_like_before(raw)
        if content is None:
            content = self._load(path, raw)
        scores, indices = content
        scores = scores.astype(np.float16, copy=False)
        with np.errstate(invalid="ignore"):  # NaN becomes a negative number, refused below
            indices = indices.astype(np.int32)
        check_map(scores, indices, self.num_classes, f"The token labels {path}")
        return LabelMap(scores, indices)

    def _search(self, path: Path) -> Path:
        if not path.parent.is_dir():
            if self._by_stem is None:
                self._by_stem = {found.stem: found for found in self.root.glob("*/*.pt")}
            if path.stem in self._by_stem:
                return self._by_stem[path.stem]
        raise DatasetFileNotFoundError(
            f"The token labels {path} do not exist, but the image is in the data set. Write them "
            "with make_token_labels.py, which leaves alone what is there already."
        )

    def _load(self, path: Path, raw: bytes) -> np.ndarray:
        """The content of a file (2, k, H, W), by PyTorch's safe reader."""
        try:
            content = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises anything on damaged files
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise DatasetError(
                f"The token labels {path} can't be read: {reason[:200]}. Expected a tensor written "
                "by torch.save; write or download them again."
            ) from error
        is_tensor = isinstance(content, torch.Tensor)
        if not (
            is_tensor
            and content.is_floating_point()
            and content.dim() == 4
            and content.shape[0] == 2
            and content.numel()
        ):
            found = f"{content.dtype} {tuple(content.shape)}" if is_tensor else type(content)
            raise DatasetError(
                f"The token labels {path} hold {found}; expected a floating-point tensor "
                "(2, k, rows, columns) of scores and classes, k = 5 in the published set."
            )
        if content.dtype not in _NUMPY_KNOWS:
            content = content.float()
        elif content.is_contiguous() and content.numel() == _storage_length(content):
            if parts := _parts(raw):
                self._layouts[parts[0]] = (content.numpy().dtype, tuple(content.shape))
        return content.numpy()

    def _read_like_before(self, raw: bytes) -> np.ndarray | None:
        """The content of a file that differs from an earlier one in its numbers alone.

        PyTorch takes 0.35 ms for a file, a tenth of an image's time; this takes a sixth of that.
        """
        layout, numbers = _parts(raw) or (b"", b"")
        kind, shape = self._layouts.get(layout, (None, ()))
        if kind is None or len(numbers) != kind.itemsize * math.prod(shape):
            return None
        return np.frombuffer(numbers, kind).reshape(shape)

    def __repr__(self) -> str:
        return f"OfficialLabels({str(self.root)!r}, num_classes={self.num_classes})"


def check_map(scores: np.ndarray, indices: np.ndarray, num_classes: int, what: str) -> None:
    """Raise a `DatasetError` that begins with ``what`` if a map's content makes no sense.

    Args:
        scores: float16.
        indices: integers.
        num_classes: these must be below it.
        what: the map.
    """
    low, high = int(indices.min()), int(indices.max())
    if low < 0:
        raise DatasetError(f"{what} name class {low}; expected 0 and up. Write them again.")
    if high >= num_classes:
        raise DatasetError(
            f"{what} name class {high}, but there are {num_classes} classes, from 0. The "
            "annotator that wrote them knew other classes than this model and data set."
        )
    if ((scores.view(np.uint16) & _EXPONENT) == _EXPONENT).any():  # faster than isfinite
        raise DatasetError(f"{what} have scores that are infinite or NaN. Write them again.")


def _parts(raw: bytes) -> tuple[bytes, bytes] | None:
    """What describes a tensor in a zip file of one, and its numbers; None for unusual files.

    Standard zip, of members that are not compressed; Python's own reader takes four times as long.
    """
    try:
        end = raw.rindex(_END_OF_DIRECTORY)
        count, _, at = _END.unpack_from(raw, end)
        members = {}
        for _ in range(count):
            method, crc, size, name_length, *extra, start = _ENTRY.unpack_from(raw, at)
            name = raw[at + 46 : at + 46 + name_length].partition(b"/")[2]
            at += 46 + name_length + sum(extra)
            start += 30 + sum(_LOCAL.unpack_from(raw, start))
            members[name] = raw[start : start + size] if method == 0 else b""
            if name == b"data/0" and zlib.crc32(members[name]) != crc:
                return None
        return members[b"byteorder"] + members[b"data.pkl"], members[b"data/0"]
    except (LookupError, ValueError, struct.error):
        return None


def _storage_length(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().nbytes() // tensor.element_size()


def save_official(
    root: Path, class_name: str, stem: str, label_map: LabelMap, num_classes: int
) -> Path:
    """Write one file, whole or not at all, and return its path.

    Scores and classes are float16, as in the published set; float32 where the classes are too
    many for it.
    """
    kind = np.float16 if num_classes <= _EXACT_IN_HALF else np.float32
    content = torch.from_numpy(np.stack([part.astype(kind, order="C") for part in label_map]))
    path = official_path(root, class_name, stem)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:  # a path's name would be written into the file
            torch.save(content, file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def official_path(root: Path, class_name: str, stem: str) -> Path:
    """Where the label map of an image belongs."""
    return root / folder_of(class_name) / f"{folder_of(stem)}.pt"
