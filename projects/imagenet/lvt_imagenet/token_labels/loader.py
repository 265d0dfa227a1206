"""Loaders of images with token labels, parallel to timm's."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from timm.data import create_loader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lvt_d2.errors import ConfigError, DatasetFileNotFoundError
from lvt_imagenet.token_labels.batch import collate
from lvt_imagenet.token_labels.compact import SUFFIX, CompactLabels
from lvt_imagenet.token_labels.dataset import LabelStore, with_token_labels
from lvt_imagenet.token_labels.official import OfficialLabels
from lvt_imagenet.token_labels.targets import TokenLabelTarget

_NOT_HERE = ("collate_fn", "num_aug_splits", "input_size_choices", "tf_preprocessing")


def open_labels(path: str | os.PathLike, num_classes: int) -> LabelStore:
    """The label maps of a folder, or a file, in either format.

    Args:
        path: a folder of ``*.tokenlabels`` files or one of them, or one of
            ``<class>/<image stem>.pt``.
        num_classes: of the model.

    Raises:
        DatasetFileNotFoundError: there is nothing of the kind.
        DatasetError: files are damaged, or of another number of classes.
    """
    path = Path(path)
    if path.is_file() or next(path.glob(f"*{SUFFIX}"), None):
        return CompactLabels(path, num_classes)
    if path.is_dir() and next(path.glob("*/*.pt"), None) is None:
        raise DatasetFileNotFoundError(
            f"The folder {path} holds no token labels; expected *{SUFFIX} files, or folders of "
            "classes with *.pt files. Write them with make_token_labels.py."
        )
    return OfficialLabels(path, num_classes)


class TargetLoader:
    """A loader whose label maps have become targets, on the device that they arrive on.

    Args:
        loader: gives images and `TokenLabels`.
        target: makes (B, K, 2 + S*S) of them.
    """

    def __init__(self, loader: Any, target: TokenLabelTarget):
        self.loader = loader
        self.target = target

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.loader:
            yield images, self.target(labels)

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def dataset(self) -> Dataset:
        """As of `DataLoader`."""
        return self.loader.dataset

    @property
    def sampler(self) -> Any:
        """As of `DataLoader`."""
        return self.loader.sampler


def create_token_label_loader(
    dataset: Dataset,
    labels: LabelStore,
    input_size: int | tuple[int, ...],
    batch_size: int,
    target: TokenLabelTarget | None = None,
    **timm_options: Any,
) -> TargetLoader | DataLoader:
    """`timm.data.create_loader` for training with token labels.

    Order of images, augmentation and random numbers are those of timm's loader with the same
    options and seeds; labels take part in crops and flips.

    Args:
        dataset: made by `timm.data.create_dataset`: a folder, tar files, ``hfds/`` or ``wds/``.
        labels: made by `open_labels`.
        input_size: of the crops, (C, H, W) or their side in pixels.
        batch_size: B, per process.
        target: makes targets on the device that batches arrive on; None gives `TokenLabels`.
        **timm_options: all other arguments of `timm.data.create_loader`, which refuses unknown
            ones: ``scale``, ``hflip``, ``auto_augment``, ``re_prob``, ``num_workers``,
            ``distributed``, ``device``, ``use_prefetcher``... ``is_training`` is True.

    Returns:
        An iterable of images (B, C, H, W) and targets (B, K, 2 + S*S), or `TokenLabels`.

    Raises:
        ConfigError: an option that token labels can't follow, or a data set without names.
    """
    for name in _NOT_HERE:
        if timm_options.get(name):
            raise ConfigError(
                f"{name} is {timm_options[name]}, which has no effect on token labels; leave it "
                "out."
            )
    if target is not None and target.num_classes != labels.num_classes:
        raise ConfigError(
            f"The target has {target.num_classes} classes and the labels {labels.num_classes}; "
            "expected one number, the model's."
        )
    dataset = with_token_labels(dataset, labels)
    if hasattr(dataset, "set_loader_cfg"):  # timm asks only its own classes
        dataset.set_loader_cfg(num_workers=timm_options.get("num_workers", 1))
    loader = create_loader(
        dataset,
        input_size,
        batch_size,
        **{"is_training": True, **timm_options, "collate_fn": collate},
    )
    return loader if target is None else TargetLoader(loader, target)
