"""Names by which an image and its label map find each other: class and file stem."""

import re
from typing import Any

from lvt_d2.errors import ConfigError

# Hugging Face's copy of ImageNet appends the class: n01440764_10026_n01440764.JPEG.
_CLASS_APPENDED = re.compile(r"(n\d{8}_\d+)_n\d{8}")

_NO_PART_OF_A_NAME = re.compile(r"[\x00-\x1f/\\]")


def stem_of(file_name: str) -> str:
    """The name of an image file without folder and suffix, the same in all copies of ImageNet."""
    return _stem(file_name.replace("\\", "/").rpartition("/")[2])


def _stem(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    if not dot or not suffix.isalnum() or suffix.isdigit():
        stem = name
    appended = _CLASS_APPENDED.fullmatch(stem)
    return appended[1] if appended else stem


def folder_of(class_name: str) -> str:
    """A class's name as that of one folder."""
    name = _NO_PART_OF_A_NAME.sub("_", class_name)
    return "_" if name in {"", ".", ".."} else name


def class_and_stem(file_name: str, target: int, class_names: dict[int, str]) -> tuple[str, str]:
    """Class and stem of an image: the class's name, else the file's folder, else its number."""
    folder, _, name = file_name.replace("\\", "/").rpartition("/")
    return class_names.get(target) or folder.rpartition("/")[2] or str(target), _stem(name)


def class_names(reader: Any) -> dict[int, str]:
    """Names of a timm reader's classes by index; empty where it has none."""
    by_name = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)
    return {int(index): str(name) for name, index in (by_name or {}).items()}


def image_names(reader: Any) -> list[tuple[str, str]]:
    """Class and stem of all images of a timm reader with random access, none of them read.

    Raises:
        ConfigError: images of this reader have no names.
    """
    names = class_names(reader)
    if hasattr(reader, "samples"):  # folders and tar files
        files = reader.filenames()
        targets = getattr(reader, "targets", None)
        if targets is None:
            targets = [target for _, target in reader.samples]
    elif hasattr(reader, "dataset"):  # Hugging Face: a row as a whole would read the image too
        import pyarrow.compute as pc

        table = reader.dataset.with_format(None).flatten_indices().data
        files = pc.struct_field(table.column(reader.image_key), "path").to_pylist()
        targets = reader.dataset[reader.label_key]
    else:
        raise ConfigError(
            f"timm's {type(reader).__name__} does not tell the names of its images. Take the same "
            "set as a folder, tar files or hfds/."
        )
    if not all(files):
        raise ConfigError(
            f"Image {files.index(None)} of the data set has no file name, by which its token "
            "labels could be found. Take a data set that keeps them, as a folder of images."
        )
    return [
        class_and_stem(file, int(target), names)
        for file, target in zip(files, targets, strict=True)
    ]
