"""Names by which an image and its label map find each other: class and file stem."""

import re
from pathlib import PurePosixPath

# Hugging Face's copy of ImageNet appends the class: n01440764_10026_n01440764.JPEG.
_CLASS_APPENDED = re.compile(r"(n\d{8}_\d+)_n\d{8}")


def stem_of(file_name: str) -> str:
    """The name of an image file without folder and suffix, the same in all copies of ImageNet."""
    name = PurePosixPath(file_name.replace("\\", "/")).name
    stem, dot, suffix = name.rpartition(".")
    if not dot or not suffix.isalpha():
        stem = name
    appended = _CLASS_APPENDED.fullmatch(stem)
    return appended[1] if appended else stem


def folder_of(class_name: str) -> str:
    """A class's name as that of one folder."""
    name = re.sub(r"[\x00-\x1f/\\]", "_", class_name)
    return "_" if name in {"", ".", ".."} else name
