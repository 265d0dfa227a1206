"""From names of registered sets to data loaders."""

import logging
import os
from collections.abc import Callable, Sequence

from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader as _build_test_loader,
)
from detectron2.utils import comm
from torch.utils.data import DataLoader, Sampler

import lvt_d2.data.builtin  # noqa: F401  (registers the sets that configs name)
from lvt_d2.data.image_mapper import MIN_SIZE
from lvt_d2.data.train_loader import TrainLoader
from lvt_d2.errors import ConfigError, DatasetError

logger = logging.getLogger(__name__)

_SUFFIXES = ("_panoptic", "_semantic")
_MAX_WORKERS = 8  # per process; more only multiply memory


def get_panoptic_dicts(
    names: str | Sequence[str],
    filter_empty: bool = True,
    min_size: int = MIN_SIZE,
    num_things: int | None = None,
    num_stuff: int | None = None,
) -> list[dict]:
    """Load registered panoptic sets and drop the images that can't be trained on.

    Args:
        names: one name or several; several must have the same classes.
        filter_empty: drop images without any thing, crowds counted as things (the published rule).
        min_size: drop images with a side under this, in pixels; 0 keeps all.
        num_things: classes of the model's boxes and masks; None does not compare them with the set.
        num_stuff: labels of its semantic head, the stuff classes and "things"; None as before.

    Returns:
        Detectron2 dataset dicts; how many were dropped is logged.

    Raises:
        ConfigError: the model has other numbers of classes than the sets.
        DatasetError: a name is unknown, classes differ, or no image is left.
    """
    names = _known_names(names)
    _check_same_classes(names)
    _check_model_classes(names[0], num_things, num_stuff)
    dicts = [d for name in names for d in DatasetCatalog.get(name)]
    kept = [d for d in dicts if min(d["height"], d["width"]) >= min_size]
    too_small = len(dicts) - len(kept)
    if filter_empty:
        kept = [d for d in kept if any(s["isthing"] for s in d.get("segments_info", []))]
    empty = len(dicts) - too_small - len(kept)
    if too_small or empty:
        logger.info(
            "Dropped %d of %d images of %s: %d without a thing, %d with a side under %d pixels",
            too_small + empty,
            len(dicts),
            ", ".join(names),
            empty,
            too_small,
            min_size,
        )
    if not kept:
        raise DatasetError(
            f"no image of {', '.join(names)} is left: of {len(dicts)}, {empty} have no thing and "
            f"{too_small} a side under {min_size} pixels. Set filter_empty=False for sets without "
            "labels, or a smaller min_size"
        )
    return kept


def get_semantic_dicts(names: str | Sequence[str], num_classes: int | None = None) -> list[dict]:
    """Load registered semantic sets, or panoptic ones whose things count as one class.

    Args:
        names: one name or several; several must have the same classes.
        num_classes: classes of the model's head; None does not compare them with the set.

    Returns:
        Detectron2 dataset dicts.

    Raises:
        ConfigError: the model has another number of classes than the sets.
        DatasetError: a name is unknown, classes differ, or an image has no labels.
    """
    names = _known_names(names)
    _check_same_classes(names)
    _check_model_classes(names[0], None, num_classes, what="classes")
    return [d for name in names for d in DatasetCatalog.get(name)]


def _known_names(names: str | Sequence[str]) -> list[str]:
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise DatasetError("no data set is named; give at least one registered name")
    for name in names:
        if name not in DatasetCatalog:
            known = [
                n for n in DatasetCatalog.list() if n.endswith(_SUFFIXES) or n.startswith("lvt_")
            ]
            raise DatasetError(
                f"no data set is registered as {name!r}. Known sets: {', '.join(known)}; register "
                "your own with lvt_d2.data.register_panoptic_dataset or register_semantic_dataset"
            )
    return names


def _check_same_classes(names: Sequence[str]) -> None:
    first = MetadataCatalog.get(names[0])
    for name in names[1:]:
        other = MetadataCatalog.get(name)
        for key in ("thing_classes", "stuff_classes", "reduce_zero_label"):
            if getattr(first, key, None) != getattr(other, key, None):
                raise DatasetError(
                    f"{names[0]} and {name} have different {key}; sets that are used together must "
                    "have the same classes in the same order: register them with one list of "
                    "categories"
                )


def _check_model_classes(
    name: str,
    num_things: int | None,
    num_stuff: int | None,
    what: str = 'stuff labels ("things" too)',
) -> None:
    meta = MetadataCatalog.get(name)
    wrong, remedies = [], []
    for classes, expected, key, kind in (
        ("thing_classes", num_things, "model.roi_heads.num_classes", "things"),
        ("stuff_classes", num_stuff, "model.sem_seg_head.num_classes", what),
    ):
        found = len(getattr(meta, classes, ()))
        if expected is not None and found and found != expected:
            wrong.append(f"{key} is {expected}, but the set has {found} {kind}")
            remedies.append(f"{key}={found}")
    if wrong:
        raise ConfigError(
            f"the model does not fit the data set {name}: {'; '.join(wrong)}. Set "
            f"{' '.join(remedies)}, or name another set in dataloader.train.dataset.names and "
            "dataloader.test.dataset.names"
        )


def _workers(num_workers: int | None) -> int:
    if num_workers is None:
        return default_num_workers()
    if num_workers < 0:
        raise ConfigError(
            f"num_workers of a loader is {num_workers}; expected 0 or more processes, or null for "
            "the machine's cores shared out"
        )
    return num_workers


def default_num_workers() -> int:
    """Loader processes per training process: the machine's cores shared out, at most 8."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min(_MAX_WORKERS, cores // comm.get_local_size()))


def build_train_loader(
    dataset: list[dict],
    *,
    mapper: Callable[[dict], dict | None],
    total_batch_size: int,
    sampler: Sampler | None = None,
    aspect_ratio_grouping: bool = True,
    num_workers: int | None = None,
) -> TrainLoader:
    """Endless shuffled batches, read ahead by workers, into pinned memory where a GPU is.

    They are Detectron2's, and a resumed training goes on with those that an uninterrupted one
    would have seen; see `TrainLoader`.

    Args:
        dataset: dicts of `get_panoptic_dicts` or `get_semantic_dicts`.
        mapper: see `PanopticMapper` and `SemanticMapper`.
        total_batch_size: images per iteration over all processes.
        sampler: order of the images; None is Detectron2's endless, shuffled `TrainingSampler`.
        aspect_ratio_grouping: batch wide images with wide ones and tall ones with tall ones.
        num_workers: processes per training process; None is `default_num_workers`, 0 loads in the
            training process.

    Raises:
        ConfigError: ``total_batch_size`` can't be shared out equally; ``num_workers`` is below 0.
    """
    processes = comm.get_world_size()
    if (
        not isinstance(total_batch_size, int)
        or total_batch_size < 1
        or total_batch_size % processes
    ):
        raise ConfigError(
            f"dataloader.train.total_batch_size is {total_batch_size!r}, with {processes} training "
            f"process{'es' if processes > 1 else ''}; expected a positive multiple of {processes}, "
            "since every process takes as many images as the others"
        )
    return TrainLoader(
        dataset,
        mapper=mapper,
        total_batch_size=total_batch_size,
        sampler=sampler,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=_workers(num_workers),
    )


def build_test_loader(
    dataset: list[dict],
    *,
    mapper: Callable[[dict], dict],
    batch_size: int = 1,
    num_workers: int | None = None,
) -> DataLoader:
    """Detectron2's test loader, every image once over all processes, with workers.

    Args:
        dataset: dicts of `get_panoptic_dicts`, with ``filter_empty=False`` and ``min_size=0``, or
            of `get_semantic_dicts`.
        mapper: see `PanopticMapper` and `SemanticMapper`.
        batch_size: images at a time and process.
        num_workers: as in `build_train_loader`.

    Raises:
        ConfigError: ``batch_size`` is below 1, or ``num_workers`` below 0.
    """
    if batch_size < 1:
        raise ConfigError(f"dataloader.test.batch_size is {batch_size}; expected 1 or more images")
    workers = _workers(num_workers)
    return _build_test_loader(dataset, mapper=mapper, batch_size=batch_size, num_workers=workers)
