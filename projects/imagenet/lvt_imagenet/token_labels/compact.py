"""Label maps in a compact format: thousands of images in one memory-mapped file.

All numbers are little-endian. A file ``*.tokenlabels`` is:

=================  ===============================================================================
bytes              content
=================  ===============================================================================
0..7               ``LVTTOKEN``
8..11, 12..15      uint32: version 1; uint32: n, the length of the header
16..16+n           the header, JSON: ``count`` N, ``k``, ``rows``, ``columns``, ``num_classes``,
                   ``ids_bytes`` m, ``ids_crc32``; spaces fill it up to a multiple of 64
m                  UTF-8: N lines ``<class>/<image stem>``; newlines fill up to a multiple of 64
N * record         uint16 classes (k, rows, columns), float16 scores (k, rows, columns),
                   uint32: CRC-32 of both
=================  ===============================================================================

A record of the published size (5, 18, 18) has 6,484 bytes: 8.3 GB for ImageNet.
"""

import hashlib
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from lvt_d2.errors import DatasetError, DatasetFileNotFoundError
from lvt_imagenet.token_labels.batch import LabelMap
from lvt_imagenet.token_labels.names import folder_of
from lvt_imagenet.token_labels.official import check_map

SUFFIX = ".tokenlabels"
MAX_CLASSES = 1 << 16

_MAGIC = b"LVTTOKEN"
_VERSION = 1
_START = struct.Struct("<8sII")
_ALIGN = 64
_HEADER_KEYS = ("count", "k", "rows", "columns", "num_classes", "ids_bytes", "ids_crc32")


def image_id(class_name: str, stem: str) -> str:
    """What an image is called in a file."""
    return f"{folder_of(class_name)}/{folder_of(stem)}"


class CompactFile:
    """One ``*.tokenlabels`` file; its records are mapped into memory when the first is read.

    Args:
        path: the file.

    Attributes:
        ids: ``<class>/<image stem>`` of its records, in their order.
        num_classes: K of the annotator.
        shape: k, rows, columns of its maps.

    Raises:
        DatasetError: it is damaged, cut off, or no such file.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with path.open("rb") as file:
                header, offset = self._read_header(file)
                raw = file.read(header["ids_bytes"])
        except FileNotFoundError as error:
            raise DatasetFileNotFoundError(
                f"The file of token labels {path} does not exist. Write it with "
                "make_token_labels.py."
            ) from error
        if zlib.crc32(raw) != header["ids_crc32"]:
            raise self._damaged("its list of images does not match its checksum")
        self.ids = raw.decode().split("\n")[:-1]
        self.num_classes = header["num_classes"]
        self.shape = (header["k"], header["rows"], header["columns"])
        self._count = header["count"]
        self._offset = offset + _padded(len(raw))
        self._record = 4 * int(np.prod(self.shape)) + 4
        expected = self._offset + self._count * self._record
        if len(self.ids) != self._count or path.stat().st_size != expected:
            raise self._damaged(
                f"it has {path.stat().st_size:,} bytes and {len(self.ids)} names; expected "
                f"{expected:,} bytes and {self._count} names"
            )
        self._map: np.ndarray | None = None

    def __len__(self) -> int:
        return self._count

    def read(self, number: int) -> LabelMap:
        """The label map of a record.

        Raises:
            DatasetError: it does not match its checksum.
        """
        if self._map is None:
            self._map = np.memmap(self.path, np.uint8, "r", self._offset).reshape(-1, self._record)
        record = self._map[number].tobytes()
        half = (self._record - 4) // 2
        if zlib.crc32(record[:-4]) != int.from_bytes(record[-4:], "little"):
            raise self._damaged(f"the record of {self.ids[number]} does not match its checksum")
        indices = np.frombuffer(record, "<u2", half // 2).reshape(self.shape)
        scores = np.frombuffer(record, "<f2", half // 2, half).reshape(self.shape)
        return LabelMap(scores, indices)

    def _read_header(self, file) -> tuple[dict, int]:
        start = file.read(_START.size)
        if len(start) < _START.size or not start.startswith(_MAGIC):
            raise self._damaged(f"it does not begin with {_MAGIC.decode()}")
        _, version, length = _START.unpack(start)
        if version != _VERSION:
            raise self._damaged(f"its version is {version}; this program reads {_VERSION}")
        try:
            header = json.loads(file.read(length))
            valid = all(isinstance(header[key], int) and header[key] >= 0 for key in _HEADER_KEYS)
        except (ValueError, KeyError, TypeError):
            valid = False
        if not valid:
            raise self._damaged("its header can't be read")
        return header, _START.size + length

    def _damaged(self, reason: str) -> DatasetError:
        return DatasetError(
            f"{self.path} is no whole file of token labels: {reason}. Delete it, and let "
            "make_token_labels.py write it again."
        )

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_map": None}


class CompactLabels:
    """All ``*.tokenlabels`` files of a folder, or one file.

    Args:
        root: folder or file.
        num_classes: of the model; must be that of the files.

    Raises:
        DatasetFileNotFoundError: there is no such file.
        DatasetError: a file is damaged, files disagree, or an image is in them twice.
    """

    def __init__(self, root: str | os.PathLike, num_classes: int):
        self.root = Path(root)
        self.num_classes = num_classes
        paths = sorted(self.root.glob(f"*{SUFFIX}")) if self.root.is_dir() else [self.root]
        if not paths:
            raise DatasetFileNotFoundError(
                f"The folder {root} holds no files *{SUFFIX}. Write them with make_token_labels.py."
            )
        self._files = [CompactFile(path) for path in paths]
        for file in self._files:
            if file.num_classes != num_classes:
                raise DatasetError(
                    f"{file.path} was written by an annotator of {file.num_classes} classes, but "
                    f"the model has {num_classes}. Use an annotator of the same classes."
                )
            if file.shape != self._files[0].shape:
                raise DatasetError(
                    f"{file.path} holds maps of {file.shape} (classes, rows, columns) and "
                    f"{self._files[0].path} of {self._files[0].shape}; expected one shape. Write "
                    "all files with the same annotator and size."
                )
        # A dict of a million names would be copied into every worker; this takes 16 bytes each.
        self._keys, self._places = self._index(whole_id=True)
        self._classes = {name.rpartition("/")[0] for file in self._files for name in file.ids}
        self._stems: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._keys)

    def read(self, class_name: str, stem: str) -> LabelMap:
        """The label map of an image; of a class unknown here, that of its stem in any class.

        Raises:
            DatasetFileNotFoundError: the image has none.
            DatasetError: its record is damaged.
        """
        wanted = image_id(class_name, stem)
        place = _find(self._keys, self._places, wanted)
        if place is None and folder_of(class_name) not in self._classes:
            if self._stems is None:
                self._stems = self._index(whole_id=False)
            place = _find(*self._stems, folder_of(stem))
        if place is None:
            raise DatasetFileNotFoundError(
                f"There are no token labels of {wanted} in {self.root}, but the image is in the "
                "data set. Write them with make_token_labels.py."
            )
        return self._files[place >> 32].read(place & 0xFFFFFFFF)

    def _index(self, whole_id: bool) -> tuple[np.ndarray, np.ndarray]:
        """Sorted hashes of names, and where each is: file number and record number."""
        keys = np.empty(sum(len(file) for file in self._files), np.uint64)
        places = np.empty(len(keys), np.int64)
        at = 0
        for number, file in enumerate(self._files):
            for record, name in enumerate(file.ids):
                keys[at] = _hash(name if whole_id else name.rpartition("/")[2])
                places[at] = number << 32 | record
                at += 1
        order = np.argsort(keys, kind="stable")
        keys, places = keys[order], places[order]
        twice = np.flatnonzero(keys[1:] == keys[:-1])
        if whole_id and len(twice):
            first, second = (self._files[p >> 32] for p in places[twice[0] : twice[0] + 2].tolist())
            name = first.ids[places[twice[0]] & 0xFFFFFFFF]
            raise DatasetError(
                f"{name} is in {first.path} and in {second.path}; expected every image once. "
                "Delete the files of the older run."
            )
        if not whole_id and len(twice):  # a stem that several classes have names no image
            unique = np.ones(len(keys), bool)
            unique[twice] = unique[twice + 1] = False
            keys, places = keys[unique], places[unique]
        return keys, places

    def __repr__(self) -> str:
        return f"CompactLabels({str(self.root)!r}, num_classes={self.num_classes})"


def save_compact(path: Path, labels: list[tuple[str, LabelMap]], num_classes: int) -> None:
    """Write one file, whole or not at all.

    Args:
        path: the file; its folder exists.
        labels: `image_id` and label map of every image, maps of one shape.
        num_classes: K of the annotator.

    Raises:
        ValueError: more than 65,536 classes, or maps that differ in shape.
        DatasetError: a map has scores that are not finite, or classes that there are not.
    """
    for name, (scores, indices) in labels:
        check_map(scores, indices, num_classes, f"The token labels of {name}")
    shapes = {tuple(part.shape) for _, label_map in labels for part in label_map}
    if num_classes > MAX_CLASSES or len(shapes) > 1:
        raise ValueError(
            f"{num_classes} classes and maps of {sorted(shapes)}; a compact file takes up to "
            f"{MAX_CLASSES} classes, and maps of one shape"
        )
    k, rows, columns = shapes.pop() if shapes else (0, 0, 0)
    ids = "".join(f"{name}\n" for name, _ in labels).encode()
    header = {
        "count": len(labels),
        "k": k,
        "rows": rows,
        "columns": columns,
        "num_classes": num_classes,
        "ids_bytes": len(ids),
        "ids_crc32": zlib.crc32(ids),
    }
    text = json.dumps(header).encode()
    text = text.ljust(_padded(_START.size + len(text)) - _START.size)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(_START.pack(_MAGIC, _VERSION, len(text)) + text)
            file.write(ids.ljust(_padded(len(ids)), b"\n"))
            for _, (scores, indices) in labels:
                record = indices.astype("<u2").tobytes() + scores.astype("<f2").tobytes()
                file.write(record + zlib.crc32(record).to_bytes(4, "little"))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _padded(length: int) -> int:
    return -(-length // _ALIGN) * _ALIGN


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _find(keys: np.ndarray, places: np.ndarray, name: str) -> int | None:
    key = np.uint64(_hash(name))
    at = keys.searchsorted(key)
    return int(places[at]) if at < len(keys) and keys[at] == key else None
