"""From names of data sets to the lists, loaders and batches that training and testing iterate."""

import contextlib
import itertools
import logging
import operator
from collections import Counter
from collections.abc import Callable

import torch
import torch.utils.data as torchdata
from tabulate import tabulate

from detectron2.config import configurable
from detectron2.utils.comm import get_world_size
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import log_first_n

from . import samplers
from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from .dataset_mapper import DatasetMapper
from .detection_utils import OUT_OF_SCOPE, check_metadata_consistency

__all__ = ["build_batch_data_loader", "build_detection_train_loader", "build_detection_test_loader"]
__all__ += ["get_detection_dataset_dicts", "print_instances_class_histogram"]

logger = logging.getLogger(__name__)


def filter_images_with_only_crowd_annotations(dataset_dicts: list[dict]) -> list[dict]:
    """Leave out images without any annotation that is not a crowd."""
    kept = [x for x in dataset_dicts if any(not a.get("iscrowd", 0) for a in x["annotations"])]
    removed = len(dataset_dicts) - len(kept)
    logger.info(f"Removed {removed} images with no usable annotations. {len(kept)} images left.")
    return kept


def print_instances_class_histogram(dataset_dicts: list[dict], class_names: list[str]) -> None:
    """Log a table of the number of instances (crowds not counted) of every category.

    Args:
        dataset_dicts: entries with "annotations".
        class_names: name of every contiguous category id.

    Raises:
        AssertionError: a category id is outside of 0..len(class_names) - 1.
    """
    num_classes = len(class_names)
    annotations = itertools.chain.from_iterable(x["annotations"] for x in dataset_dicts)
    counts = Counter(x["category_id"] for x in annotations if not x.get("iscrowd", 0))
    for label in counts:
        assert 0 <= label < num_classes, f"Got invalid category_id={label} of {num_classes} classes"
    # Long names, as those of LVIS, would make the table too wide.
    names = [x if len(x) <= 13 else x[:11] + ".." for x in class_names]
    cells = [(name, counts[i]) for i, name in enumerate(names)] + [("total", counts.total())]
    rows = [sum(cells[i : i + 3], ()) for i in range(0, len(cells), 3)]
    headers = ["category", "#instances"] * min(3, len(cells))
    table = tabulate(rows, headers, tablefmt="pipe", numalign="left", stralign="center")
    message = f"Distribution of instances among all {num_classes} categories:\n{table}"
    log_first_n(logging.INFO, message, key="message")


def get_detection_dataset_dicts(
    names, filter_empty=True, min_keypoints=0, proposal_files=None, check_consistency=True
):
    """Load and join registered data sets.

    Args:
        names: one or several names.
        filter_empty: leave out images without an annotation that is not a crowd.
        min_keypoints: keypoints are not part of d2lite; has to be 0.
        proposal_files: files of precomputed proposals are not part of d2lite; has to be None.
        check_consistency: the data sets must agree on "thing_classes".

    Returns:
        list[dict]; or, where the catalog gives a ``torch.utils.data.Dataset``, that, or the
        ``ConcatDataset`` of several.

    Raises:
        KeyError: a name is not registered.
        AssertionError: there are no names, or no data.
        NotImplementedError: keypoints or proposals are asked for.
    """
    names = [names] if isinstance(names, str) else names
    assert len(names), names
    if min_keypoints > 0 or proposal_files is not None:
        raise NotImplementedError(OUT_OF_SCOPE)
    datasets = [DatasetCatalog.get(name) for name in names]
    if isinstance(datasets[0], torchdata.Dataset):
        return torchdata.ConcatDataset(datasets) if len(datasets) > 1 else datasets[0]
    for name, dicts in zip(names, datasets, strict=True):
        assert len(dicts), f"Dataset '{name}' is empty!"

    dataset_dicts = list(itertools.chain.from_iterable(datasets))
    has_instances = "annotations" in dataset_dicts[0]
    if filter_empty and has_instances:
        dataset_dicts = filter_images_with_only_crowd_annotations(dataset_dicts)
    if check_consistency and has_instances:
        with contextlib.suppress(AttributeError):  # nobody has named the classes
            check_metadata_consistency("thing_classes", names)
            class_names = MetadataCatalog.get(names[0]).thing_classes
            print_instances_class_histogram(dataset_dicts, class_names)
    assert len(dataset_dicts), f"No valid data found in {','.join(names)}."
    return dataset_dicts


def build_batch_data_loader(
    dataset,
    sampler,
    total_batch_size,
    *,
    aspect_ratio_grouping=False,
    num_workers=0,
    collate_fn=None,
    drop_last: bool = True,
    single_gpu_batch_size=None,
    prefetch_factor=2,
    persistent_workers=False,
    pin_memory=False,
    seed=None,
    **kwargs,
):
    """Loader of batches, without a mapping of the elements.

    Args:
        dataset: a Dataset, or an IterableDataset, which must shard itself among ranks.
        sampler: gives indices, already split among ranks; None for an IterableDataset.
        total_batch_size: elements per batch of all ranks together.
        aspect_ratio_grouping: batches of only wide or only high images; elements must be dicts
            with "width" and "height".
        num_workers: worker processes.
        collate_fn: makes a batch of a list; by default the list is the batch.
        drop_last: leave out a last batch that isn't full.
        single_gpu_batch_size: elements per batch of one rank, instead of ``total_batch_size``.
        prefetch_factor: batches that a worker prepares ahead.
        persistent_workers: keep workers between iterations over the loader.
        pin_memory: copy tensors into pinned memory.
        seed: of the seeds of the workers.
        **kwargs: handed to the ``DataLoader``.

    Returns:
        iterable of batches.
    """
    if single_gpu_batch_size:
        if total_batch_size:
            raise ValueError("total_batch_size, single_gpu_batch_size are mutually incompatible.")
        batch_size = single_gpu_batch_size
    else:
        gpus = get_world_size()
        batch_size, rest = divmod(total_batch_size, gpus)
        message = f"Total batch size ({total_batch_size}) must be divisible by the gpus ({gpus})."
        assert batch_size > 0 and rest == 0, message
    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "sampler must be None if dataset is IterableDataset"
    else:
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)
    kwargs.update(num_workers=num_workers, worker_init_fn=worker_init_reset_seed)
    kwargs.update(persistent_workers=persistent_workers, pin_memory=pin_memory)
    kwargs["prefetch_factor"] = prefetch_factor if num_workers > 0 else None
    kwargs["generator"] = None if seed is None else torch.Generator().manual_seed(seed)

    if aspect_ratio_grouping:
        assert drop_last, "Aspect ratio grouping will drop incomplete batches."
        # Workers send single elements, so that grouping sees those of all workers.
        loader = torchdata.DataLoader(dataset, collate_fn=operator.itemgetter(0), **kwargs)
        batches = AspectRatioGroupedDataset(loader, batch_size)
        return batches if collate_fn is None else MapDataset(batches, collate_fn)
    kwargs.update(collate_fn=collate_fn or trivial_batch_collator, drop_last=drop_last)
    return torchdata.DataLoader(dataset, batch_size, **kwargs)


def _dicts_from_config(cfg, split: str, names, filter_empty: bool):
    files = cfg.DATASETS[f"PROPOSAL_FILES_{split}"] if cfg.MODEL.LOAD_PROPOSALS else None
    return get_detection_dataset_dicts(names, filter_empty, proposal_files=files)


def _train_sampler_from_config(cfg, dataset):
    """Sampler that a yacs config names, None for a stream."""
    if isinstance(dataset, torchdata.IterableDataset):
        return None
    match cfg.DATALOADER.SAMPLER_TRAIN:
        case "TrainingSampler":
            return samplers.TrainingSampler(len(dataset))
        case "RepeatFactorTrainingSampler":
            options = cfg.DATALOADER.REPEAT_THRESHOLD, cfg.DATALOADER.REPEAT_SQRT
            sampler = samplers.RepeatFactorTrainingSampler
            return sampler(sampler.repeat_factors_from_category_frequency(dataset, *options))
        case "RandomSubsetTrainingSampler":
            ratio = cfg.DATALOADER.RANDOM_SUBSET_RATIO
            return samplers.RandomSubsetTrainingSampler(len(dataset), ratio)
        case name:
            raise ValueError(f"Unknown training sampler: {name}")


def _train_loader_from_config(cfg, mapper=None, *, dataset=None, sampler=None):
    if dataset is None:
        names, filter_empty = cfg.DATASETS.TRAIN, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        dataset = _dicts_from_config(cfg, "TRAIN", names, filter_empty)
    return {
        "dataset": dataset,
        "sampler": _train_sampler_from_config(cfg, dataset) if sampler is None else sampler,
        "mapper": DatasetMapper(cfg, True) if mapper is None else mapper,
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


def _mapped(dataset, mapper: Callable | None, sampler, default_sampler: Callable):
    """The mapped data set and the sampler for it, None for a stream."""
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    if mapper is not None:
        dataset = MapDataset(dataset, mapper)
    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "sampler must be None if dataset is IterableDataset"
    elif sampler is None:
        sampler = default_sampler(len(dataset))
    return dataset, sampler


@configurable(from_config=_train_loader_from_config)
def build_detection_train_loader(
    dataset,
    *,
    mapper,
    sampler=None,
    total_batch_size,
    aspect_ratio_grouping=True,
    num_workers=0,
    collate_fn=None,
    **kwargs,
):
    """Endless loader of mapped training batches, also callable as ``f(cfg, mapper=None)``.

    Args:
        dataset: list, Dataset or IterableDataset.
        mapper: maps an element to a model input; None if the elements are that already.
        sampler: gives indices; ``TrainingSampler`` by default, None for an IterableDataset.
        total_batch_size: images per batch of all ranks together.
        aspect_ratio_grouping: batches of only wide or only high images.
        num_workers: worker processes.
        collate_fn: makes a batch of a list; by default the list is the batch.
        **kwargs: handed to ``build_batch_data_loader``.

    Returns:
        iterable of batches, lists of ``total_batch_size / ranks`` mapped elements by default.
    """
    dataset, sampler = _mapped(dataset, mapper, sampler, samplers.TrainingSampler)
    assert isinstance(sampler, torchdata.Sampler | None), f"Expect a Sampler but got {sampler}"
    kwargs.update(num_workers=num_workers, collate_fn=collate_fn)
    kwargs["aspect_ratio_grouping"] = aspect_ratio_grouping
    return build_batch_data_loader(dataset, sampler, total_batch_size, **kwargs)


def _test_loader_from_config(cfg, dataset_name, mapper=None):
    return {
        "dataset": _dicts_from_config(cfg, "TEST", dataset_name, False),
        "mapper": DatasetMapper(cfg, False) if mapper is None else mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset, *, mapper, sampler=None, batch_size=1, num_workers=0, collate_fn=None
) -> torchdata.DataLoader:
    """Loader that gives every element once, also callable as ``f(cfg, dataset_name, mapper=None)``.

    Args:
        dataset: list, Dataset or IterableDataset.
        mapper: maps an element to a model input; None if the elements are that already.
        sampler: gives indices; ``InferenceSampler`` by default, which splits them among ranks;
            None for an IterableDataset.
        batch_size: elements per batch of one rank.
        num_workers: worker processes.
        collate_fn: makes a batch of a list; by default the list is the batch.
    """
    dataset, sampler = _mapped(dataset, mapper, sampler, samplers.InferenceSampler)
    options = {"num_workers": num_workers, "collate_fn": collate_fn or trivial_batch_collator}
    return torchdata.DataLoader(dataset, batch_size, sampler=sampler, **options)


def trivial_batch_collator(batch: list) -> list:
    """The list of elements is the batch."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Seed all random number generators of a worker process, each worker differently."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)
