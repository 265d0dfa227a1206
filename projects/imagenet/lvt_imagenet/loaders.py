"""From a data set to batches on the device of the model."""

import argparse
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from timm.data import create_transform
from timm.data.random_erasing import RandomErasing
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from lvt_d2.errors import DatasetError
from lvt_imagenet.data import image_mode
from lvt_imagenet.distributed import rank, world_size
from lvt_imagenet.samples import (
    EvalBatches,
    Samples,
    SeededItems,
    TrainBatches,
    collate,
    seed_all,
    seed_of,
)
from lvt_imagenet.token_labels import TrackedTransform, open_labels, with_token_labels

_MOST_WORKERS = 8  # of a process; more only multiply memory


class Batch(NamedTuple):
    """Images (B, C, H, W), normalised; targets (B,) or `TokenLabels`; indices in the set (B,)."""

    images: torch.Tensor
    targets: Any
    indices: torch.Tensor


class Loader:
    """Batches of a `DataLoader`, moved to the device, normalised, and partly erased.

    Args:
        loader: gives batches of `collate`.
        device: where to move them.
        mean: of the pixels, for values in 0..1, one for each channel.
        std: of the pixels.
        channels_last: memory format of the images.
        erasing: changes single images, seeded by their own numbers.

    Attributes:
        batches: in a whole epoch of this process.
    """

    def __init__(
        self,
        loader: DataLoader,
        device: torch.device,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        channels_last: bool = False,
        erasing: RandomErasing | None = None,
    ):
        self.loader = loader
        self.device = device
        self.mean = torch.tensor(mean, device=device).view(1, -1, 1, 1) * 255
        self.std = torch.tensor(std, device=device).view(1, -1, 1, 1) * 255
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.erasing = erasing
        self.is_stream = isinstance(loader.dataset, IterableDataset)
        self._skip = 0

    @property
    def batches(self) -> int:
        """In a whole epoch of this process."""
        if self.is_stream:
            return len(self.loader.dataset) // self.loader.batch_size
        return len(self.loader.batch_sampler)

    @property
    def unreadable(self) -> int:
        """Images that could not be read so far, in all workers of this process."""
        counter = getattr(self.loader.dataset, "unreadable", None)
        return 0 if counter is None else counter.value

    def start(self, seed: int, epoch: int, batch: int = 0) -> None:
        """Say which epoch comes next, and at which of its batches it begins."""
        self.loader.generator.manual_seed(seed_of(seed, epoch, rank()))
        if self.is_stream:
            self._skip = batch
            self.loader.dataset.set_epoch(epoch)
        else:
            self.loader.batch_sampler.start(epoch, batch)

    def __iter__(self) -> Iterator[Batch]:
        for batch in itertools.islice(self.loader, self._skip, None):
            if batch is not None:
                yield self._prepared(*batch)

    def _prepared(self, images: torch.Tensor, targets: Any, indices: torch.Tensor, seeds) -> Batch:
        images = images.to(self.device, non_blocking=True)
        targets = targets.to(self.device, non_blocking=True)
        images = images.float().sub_(self.mean).div_(self.std)
        if self.erasing is not None:
            for image, seed in zip(images, seeds.tolist(), strict=True):
                seed_all(seed + 1, self.device)  # the transform has used up its own
                self.erasing(image)
        return Batch(images.contiguous(memory_format=self.format), targets, indices)


def train_loader(
    dataset: Dataset, settings: argparse.Namespace, num_classes: int, device: torch.device
) -> Loader:
    """Augmented batches, with label maps where ``token_labels`` names a folder.

    Raises:
        DatasetError: there is not one batch for every process, or label maps are missing.
    """
    transform = create_transform(
        _size(settings),
        is_training=True,
        no_aug=not settings.augment,
        scale=settings.scale,
        ratio=settings.ratio,
        hflip=settings.hflip,
        vflip=settings.vflip,
        color_jitter=settings.color_jitter,
        auto_augment=settings.auto_augment,
        interpolation=settings.train_interpolation if settings.augment else settings.interpolation,
        mean=settings.mean,
        std=settings.std,
        use_prefetcher=True,  # gives uint8; the rest is done in batches
    )
    erasing = None
    if settings.reprob and settings.augment:
        erasing = RandomErasing(
            settings.reprob, mode=settings.remode, max_count=settings.recount, device=device.type
        )
    samples = _samples(dataset, transform, settings, num_classes)
    if isinstance(samples, IterableDataset):
        loader = _stream(samples, settings, settings.batch_size)
        images = len(samples)
    else:
        images = len(samples)
        batches = TrainBatches(
            images,
            settings.batch_size,
            rank(),
            world_size(),
            settings.seed,
            settings.grad_accum_steps,
        )
        loader = _map_style(samples, batches, settings)
    loader = Loader(loader, device, settings.mean, settings.std, settings.channels_last, erasing)
    if loader.batches < settings.grad_accum_steps:
        raise DatasetError(
            f"The training part has {images} images, too few for one update of {world_size()} "
            f"processes x {settings.grad_accum_steps} batches x {settings.batch_size} images; give "
            "a smaller --batch-size"
        )
    return loader


def eval_loader(
    dataset: Dataset, settings: argparse.Namespace, num_classes: int, device: torch.device
) -> Loader:
    """Every image once, resized and cropped at the centre."""
    transform = create_transform(
        _size(settings),
        crop_pct=settings.crop_pct,
        interpolation=settings.interpolation,
        mean=settings.mean,
        std=settings.std,
        use_prefetcher=True,
    )
    batch_size = settings.val_batch_size or settings.batch_size
    if isinstance(dataset, IterableDataset):
        dataset.transform = transform
        loader = _stream(dataset, settings, batch_size)
    else:
        samples = Samples(dataset, transform, num_classes, image_mode(settings), replace=False)
        batches = EvalBatches(len(dataset), batch_size, rank(), world_size())
        loader = _map_style(samples, batches, settings)
    return Loader(loader, device, settings.mean, settings.std, settings.channels_last)


def _samples(
    dataset: Dataset, transform: Callable, settings: argparse.Namespace, num_classes: int
) -> Dataset:
    """The data set with its transform, random by seeds where it can be."""
    if settings.token_labels:
        labels = open_labels(settings.token_labels, num_classes)
        dataset = with_token_labels(dataset, labels)
        dataset.transform = TrackedTransform(transform)
        return dataset if isinstance(dataset, IterableDataset) else SeededItems(dataset)
    if isinstance(dataset, IterableDataset):
        dataset.transform = transform
        return dataset
    return Samples(dataset, transform, num_classes, image_mode(settings))


def _map_style(samples: Dataset, batches: Sampler, settings: argparse.Namespace) -> DataLoader:
    workers = _workers(settings)
    return DataLoader(
        samples,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        generator=torch.Generator(),
    )


def _stream(samples: IterableDataset, settings: argparse.Namespace, batch_size: int) -> DataLoader:
    workers = max(_workers(settings), 1)  # readers shuffle by the seed of their worker
    samples.set_loader_cfg(num_workers=workers)
    return DataLoader(
        samples,
        batch_size=batch_size,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # each epoch starts workers anew, with seeds of that epoch
    )


def _size(settings: argparse.Namespace) -> tuple[int, int, int]:
    """Channels, height and width of the model's input."""
    height, width = (settings.img_size * 2)[:2]
    return settings.in_chans, height, width


def _workers(settings: argparse.Namespace) -> int:
    if settings.workers is not None:
        return settings.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(_MOST_WORKERS, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
