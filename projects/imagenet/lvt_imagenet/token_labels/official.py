"""Label maps in the published format: one file of tensors per image."""

import os
from pathlib import Path

import numpy as np
import torch

from lvt_d2.errors import DatasetError, DatasetFileNotFoundError
from lvt_imagenet.token_labels.batch import LabelMap
from lvt_imagenet.token_labels.names import folder_of

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
            content = _load(path)
        except FileNotFoundError:
            path = self._search(path)
            content = _load(path)
        return self._checked(path, content)

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

    def _checked(self, path: Path, content: object) -> LabelMap:
        if not (
            isinstance(content, torch.Tensor)
            and content.is_floating_point()
            and content.dim() == 4
            and content.shape[0] == 2
            and content.numel()
        ):
            found = (
                f"{content.dtype} {tuple(content.shape)}"
                if isinstance(content, torch.Tensor)
                else type(content).__name__
            )
            raise DatasetError(
                f"The token labels {path} hold {found}; expected a floating-point tensor "
                "(2, k, rows, columns) of scores and classes, k = 5 in the published set."
            )
        scores, indices = content.numpy()
        scores = scores.astype(np.float16, copy=False)
        check_map(scores, indices, self.num_classes, f"The token labels {path}")
        return LabelMap(scores, indices.astype(np.int32))

    def __repr__(self) -> str:
        return f"OfficialLabels({str(self.root)!r}, num_classes={self.num_classes})"


def check_map(scores: np.ndarray, indices: np.ndarray, num_classes: int, what: str) -> None:
    """Raise a `DatasetError` that begins with ``what`` if a map's content makes no sense."""
    low, high = indices.min(), indices.max()
    if not low >= 0:  # also true of NaN
        raise DatasetError(f"{what} name class {low}; expected 0 and up. Write them again.")
    if high >= num_classes:
        raise DatasetError(
            f"{what} name class {high:.0f}, but there are {num_classes} classes, from 0. The "
            "annotator that wrote them knew other classes than this model and data set."
        )
    if not np.isfinite(scores).all():
        raise DatasetError(f"{what} have scores that are infinite or NaN. Write them again.")


def _load(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises anything on damaged files
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise DatasetError(
            f"The token labels {path} can't be read: {reason[:200]}. Expected a tensor written by "
            "torch.save; write or download them again."
        ) from error


def save_official(
    root: Path, class_name: str, stem: str, label_map: LabelMap, num_classes: int
) -> Path:
    """Write one file, whole or not at all, and return its path.

    Scores and classes are float16, as in the published set; float32 where the classes are too
    many for it.
    """
    kind = np.float16 if num_classes <= _EXACT_IN_HALF else np.float32
    content = torch.from_numpy(np.stack([part.astype(kind) for part in label_map]))
    path = official_path(root, class_name, stem)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save(content, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def official_path(root: Path, class_name: str, stem: str) -> Path:
    """Where the label map of an image belongs."""
    return root / folder_of(class_name) / f"{folder_of(stem)}.pt"
