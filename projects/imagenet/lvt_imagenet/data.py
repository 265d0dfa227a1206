"""Opens the parts of a data set as timm reads them, and settles which classes there are."""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from timm.data import create_dataset
from timm.data.readers.class_map import load_class_map
from torch.utils.data import Dataset, IterableDataset

from lvt_d2.errors import ConfigError, DatasetError, DatasetFileNotFoundError
from lvt_imagenet import token_labels

_SYNONYMS = (("train", "training"), ("val", "valid", "validation", "eval", "evaluation", "test"))


def open_train(settings: argparse.Namespace) -> Dataset:
    """The training part.

    Raises:
        DatasetFileNotFoundError: there is none.
        DatasetError: it has no image, or fewer than two classes.
        ConfigError: the format needs something that is not given.
    """
    dataset = _open(settings, settings.train_split, training=True)
    names = class_names(dataset)
    if len(names) == 1:
        raise DatasetError(
            f"The training part of {settings.data or settings.dataset} has one class, "
            f"{names[0]!r}; a classifier needs two or more, one folder each: DATA/train/CLASS/*.jpg"
        )
    return dataset


def open_validation(
    settings: argparse.Namespace, classes: Sequence[str], whole_folder: bool = False
) -> Dataset:
    """The validation part, with classes numbered as in training.

    Args:
        settings: see `lvt_imagenet.options`.
        classes: names in the order of training; empty where they are not known.
        whole_folder: take the folder itself if it has no such part.

    Raises:
        DatasetFileNotFoundError: there is none.
        DatasetError: it has no image, or a class that training has not.
        ConfigError: the format needs something that is not given.
    """
    dataset = _open(settings, settings.val_split, False, None, whole_folder)
    own = class_names(dataset)
    if not classes or not own or list(classes) == own:
        return dataset
    check_known(own, classes, f"the validation part of {settings.data or settings.dataset}")
    numbers = {name: number for number, name in enumerate(classes)}
    return _open(settings, settings.val_split, False, numbers, whole_folder)


def check_known(own: Sequence[str], classes: Sequence[str], what: str) -> None:
    """Refuse classes that training has not seen.

    Raises:
        DatasetError: there are some in ``own``.
    """
    unknown = [name for name in own if name not in set(classes)]
    if unknown:
        raise DatasetError(
            f"{len(unknown)} of the {len(own)} classes of {what} are none of the "
            f"{len(classes)} that the model was trained on: {some(unknown)}; it knows "
            f"{some(classes)}. Folders of classes must have the same names in all parts"
        )


def class_names(dataset: Dataset) -> list[str]:
    """Names of the classes in the order of their numbers; empty where the format has none."""
    names = token_labels.class_names(getattr(dataset, "reader", dataset))
    return [names[number] for number in sorted(names)]


def count_classes(settings: argparse.Namespace, names: Sequence[str]) -> int:
    """Classes of the model: as set, or as many as the data set names.

    Raises:
        ConfigError: neither says, or the data set has more of them.
    """
    if settings.num_classes is None and not names:
        raise ConfigError(
            "num_classes is none, and this data set does not name its classes; give --num-classes"
        )
    if settings.num_classes is not None and len(names) > settings.num_classes:
        raise ConfigError(
            f"num_classes is {settings.num_classes}, but the data set has {len(names)} classes "
            f"({some(names)}); give --num-classes {len(names)}, or leave it out"
        )
    return settings.num_classes or len(names)


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first few of a list, in words."""
    rest = f", ... ({len(names) - limit} more)" if len(names) > limit else ""
    return ", ".join(map(str, names[:limit])) + rest


def _open(
    settings: argparse.Namespace,
    split: str,
    training: bool,
    class_map: Mapping[str, int] | None = None,
    whole_folder: bool = False,
) -> Dataset:
    root = settings.data
    if settings.dataset == "" and root is None:
        raise ConfigError("No data set was given; name its folder: train.py FOLDER")
    if root is not None and not os.path.exists(root) and not settings.download:
        raise DatasetFileNotFoundError(
            f"The folder of the data set, {root}, does not exist; expected one with "
            f"{split}/CLASS/*.jpg"
        )
    if settings.dataset == "":
        root = _part(Path(root), split, whole_folder)
    _check_class_map(settings.class_map, root)
    mode = image_mode(settings)
    try:
        dataset = create_dataset(
            settings.dataset,
            root=None if root is None else str(root),
            split=split,
            search_split=False,
            class_map=class_map or settings.class_map,
            is_training=training,
            download=settings.download,
            batch_size=settings.batch_size,
            seed=settings.seed,
            num_samples=settings.num_samples if training else None,
            input_img_mode=mode,
            input_key=settings.input_key,
            target_key=settings.target_key,
        )
    except ImportError as error:
        raise ConfigError(
            f"The data set {settings.dataset!r} needs a package that is not installed ({error}); "
            "pip install 'lvt-d2[imagenet]' brings webdataset and datasets"
        ) from error
    except Exception as error:  # readers raise anything on what is not there
        raise DatasetError(
            f"The {split} part of {settings.dataset or 'images'} at {root} can't be opened: "
            f"{type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(dataset, IterableDataset) and len(dataset) == 0:
        raise DatasetError(f"The {split} part at {root} has no image; expected CLASS/*.jpg in it")
    return dataset


def image_mode(settings: argparse.Namespace) -> str:
    """Pillow's name for images of so many channels."""
    if settings.in_chans not in (1, 3):
        raise ConfigError(f"in_chans is {settings.in_chans}; images are read with 3 or 1 channels")
    return "RGB" if settings.in_chans == 3 else "L"


def _part(root: Path, split: str, whole_folder: bool) -> Path:
    """The folder or .tar file of a part of the data set."""
    if root.is_file():
        return root
    names = next((group for group in _SYNONYMS if split in group), ())
    for name in (split, *names):
        for path in (root / name, root / f"{name}.tar"):
            if path.exists():
                return path
    if whole_folder:
        return root
    there = sorted(entry.name for entry in root.iterdir())
    raise DatasetFileNotFoundError(
        f"{root} has no part {split!r}; expected {root / split}/CLASS/*.jpg (or {split}.tar). "
        f"It has {some(there) or 'nothing'}. Name the parts with --train-split and --val-split"
    )


def _check_class_map(path: str | None, root: Path | None) -> None:
    if path is None:
        return
    try:
        names = load_class_map(path, str(root or ""))
    except Exception as error:  # AssertionError, UnpicklingError...
        raise ConfigError(
            f"The class map {path} can't be read ({' '.join(str(error).split())}); expected a .txt "
            "with a class name a line, in order"
        ) from error
    if len(names) < 2:
        raise ConfigError(f"The class map {path} names {len(names)} classes; expected two or more")
