"""From names of data sets to the lists, loaders and batches that training and testing iterate."""

import itertools
import logging
import operator
from collections.abc import Callable, Sequence

import torch
import torch.utils.data as torchdata

from detectron2.config import configurable
from detectron2.utils.comm import get_world_size
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import _log_api_usage

from . import samplers
from ._dataset_dicts import (
    filter_images_with_few_keypoints,
    filter_images_with_only_crowd_annotations,
    load_proposals_into_dataset,
    print_instances_class_histogram,
)
from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from .dataset_mapper import DatasetMapper
from .detection_utils import check_metadata_consistency

__all__ = ["build_batch_data_loader", "build_detection_train_loader", "load_proposals_into_dataset"]
__all__ += ["build_detection_test_loader", "get_detection_dataset_dicts"]
__all__ += ["print_instances_class_histogram"]

logger = logging.getLogger(__name__)


def get_detection_dataset_dicts(
    names, filter_empty=True, min_keypoints=0, proposal_files=None, check_consistency=True
):
    """Load and join registered data sets.

    Args:
        names: one or several names.
        filter_empty: leave out images without an annotation that is not a crowd.
        min_keypoints: leave out images with fewer labelled keypoints, if positive.
        proposal_files: one file of proposals for every name.
        check_consistency: the data sets must agree on "thing_classes".

    Returns:
        list[dict]; or, where the catalog gives a ``torch.utils.data.Dataset``, that, or the
        ``ConcatDataset`` of several.

    Raises:
        KeyError: a name is not registered.
        AssertionError: there are no names, or no data.
    """
    names = [names] if isinstance(names, str) else names
    assert len(names), names
    if unknown := set(names) - set(DatasetCatalog):
        logger.warning(f"Dataset names that are not registered in the DatasetCatalog: {unknown}.")
    datasets = [DatasetCatalog.get(name) for name in names]
    if isinstance(datasets[0], torchdata.Dataset):
        return torchdata.ConcatDataset(datasets) if len(datasets) > 1 else datasets[0]
    for name, dicts in zip(names, datasets, strict=True):
        assert len(dicts), f"Dataset '{name}' is empty!"
    if proposal_files is not None:
        assert len(names) == len(proposal_files), (names, proposal_files)
        datasets = list(map(load_proposals_into_dataset, datasets, proposal_files))

    dataset_dicts = list(itertools.chain.from_iterable(datasets))
    has_instances = "annotations" in dataset_dicts[0]
    if filter_empty and has_instances:
        dataset_dicts = filter_images_with_only_crowd_annotations(dataset_dicts)
    if min_keypoints > 0 and has_instances:
        dataset_dicts = filter_images_with_few_keypoints(dataset_dicts, min_keypoints)
    if check_consistency and has_instances:
        try:
            class_names = MetadataCatalog.get(names[0]).thing_classes
            check_metadata_consistency("thing_classes", names)
            print_instances_class_histogram(dataset_dicts, class_names)
        except AttributeError:  # nobody has named the classes
            pass
    assert len(dataset_dicts), f"No valid data found in {','.join(names)}."
    return dataset_dicts


def _batch_size_per_gpu(total_batch_size: int, single_gpu_batch_size: int | None) -> int:
    if single_gpu_batch_size:
        if total_batch_size:
            raise ValueError("total_batch_size, single_gpu_batch_size are mutually incompatible.")
        return single_gpu_batch_size
    world_size = get_world_size()
    assert total_batch_size > 0 and total_batch_size % world_size == 0, (
        f"Total batch size ({total_batch_size}) must be divisible by the gpus ({world_size})."
    )
    return total_batch_size // world_size


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
    batch_size = _batch_size_per_gpu(total_batch_size, single_gpu_batch_size)
    logger.info("Making batched data loader with batch_size=%d", batch_size)

    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "sampler must be None if dataset is IterableDataset"
    else:
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    kwargs.update(
        num_workers=num_workers,
        worker_init_fn=worker_init_reset_seed,
        prefetch_factor=prefetch_factor if num_workers > 0 else None,
        persistent_workers=persistent_workers,
        pin_memory=pin_memory,
        generator=generator,
    )

    if aspect_ratio_grouping:
        assert drop_last, "Aspect ratio grouping will drop incomplete batches."
        # Workers send single elements, so that grouping sees those of all workers.
        loader = torchdata.DataLoader(dataset, collate_fn=operator.itemgetter(0), **kwargs)
        batches = AspectRatioGroupedDataset(loader, batch_size)
        return batches if collate_fn is None else MapDataset(batches, collate_fn)
    return torchdata.DataLoader(
        dataset,
        batch_size=batch_size,
        drop_last=drop_last,
        collate_fn=trivial_batch_collator if collate_fn is None else collate_fn,
        **kwargs,
    )


def _proposal_files(cfg, split: str, names: Sequence[str]) -> list[str] | None:
    if not cfg.MODEL.LOAD_PROPOSALS:
        return None
    files = dict(zip(cfg.DATASETS[split], cfg.DATASETS[f"PROPOSAL_FILES_{split}"], strict=True))
    return [files[name] for name in names]


def _train_dicts_from_config(cfg, names: Sequence[str]):
    """Those of the training data sets with these names, as a yacs config asks for them."""
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    return get_detection_dataset_dicts(
        names,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=keypoints,
        proposal_files=_proposal_files(cfg, "TRAIN", names),
    )


def _category_factors(cfg, dicts, **kwargs) -> torch.Tensor:
    return samplers.RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        dicts, cfg.DATALOADER.REPEAT_THRESHOLD, **kwargs
    )


def _build_weighted_sampler(cfg, balance_categories: bool) -> samplers.RepeatFactorTrainingSampler:
    """Repeats whole data sets by ``DATASETS.TRAIN_REPEAT_FACTOR``, pairs of name and factor."""
    weights = dict(cfg.DATASETS.TRAIN_REPEAT_FACTOR)
    unknown = set(weights) - set(cfg.DATASETS.TRAIN)
    assert not unknown, f"unrecognized datasets: {unknown}"
    factors = []
    for name in cfg.DATASETS.TRAIN:
        dicts = _train_dicts_from_config(cfg, [name])
        factor = torch.full((len(dicts),), float(weights.get(name, 1)))
        factors.append(factor * _category_factors(cfg, dicts) if balance_categories else factor)
    factors = torch.cat(factors)
    if balance_categories:
        factors = factors / factors.min()
    return samplers.RepeatFactorTrainingSampler(factors)


def _train_sampler_from_config(cfg, dataset):
    """Sampler that a yacs config names, None for a stream."""
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if isinstance(dataset, torchdata.IterableDataset):
        logger.info("Not using any sampler since the dataset is IterableDataset.")
        return None
    logger.info(f"Using training sampler {name}")
    if name == "TrainingSampler":
        return samplers.TrainingSampler(len(dataset))
    if name == "RepeatFactorTrainingSampler":
        factors = _category_factors(cfg, dataset, sqrt=cfg.DATALOADER.REPEAT_SQRT)
        return samplers.RepeatFactorTrainingSampler(factors)
    if name == "RandomSubsetTrainingSampler":
        return samplers.RandomSubsetTrainingSampler(
            len(dataset), cfg.DATALOADER.RANDOM_SUBSET_RATIO
        )
    if name in ("WeightedTrainingSampler", "WeightedCategoryTrainingSampler"):
        return _build_weighted_sampler(cfg, name == "WeightedCategoryTrainingSampler")
    raise ValueError(f"Unknown training sampler: {name}")


def _train_loader_from_config(cfg, mapper=None, *, dataset=None, sampler=None):
    if dataset is None:
        dataset = _train_dicts_from_config(cfg, cfg.DATASETS.TRAIN)
        _log_api_usage("dataset." + cfg.DATASETS.TRAIN[0])
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
    kinds = (torchdata.Sampler, type(None))
    assert isinstance(sampler, kinds), f"Expect a Sampler but got {type(sampler)}"
    return build_batch_data_loader(
        dataset,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=collate_fn,
        **kwargs,
    )


def _test_loader_from_config(cfg, dataset_name, mapper=None):
    names = [dataset_name] if isinstance(dataset_name, str) else dataset_name
    dataset = get_detection_dataset_dicts(
        names, filter_empty=False, proposal_files=_proposal_files(cfg, "TEST", names)
    )
    is_stream = isinstance(dataset, torchdata.IterableDataset)
    return {
        "dataset": dataset,
        "mapper": DatasetMapper(cfg, False) if mapper is None else mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "sampler": None if is_stream else samplers.InferenceSampler(len(dataset)),
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
    return torchdata.DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=False,
        num_workers=num_workers,
        collate_fn=trivial_batch_collator if collate_fn is None else collate_fn,
    )


def trivial_batch_collator(batch: list) -> list:
    """The list of elements is the batch."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Seed all random number generators of a worker process, each worker differently."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)
