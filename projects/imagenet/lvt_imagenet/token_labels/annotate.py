"""Runs an annotator over the images that an output still needs."""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from timm.data import ImageDataset
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from lvt_d2.errors import DatasetFileNotFoundError
from lvt_imagenet.token_labels.annotator import DenseAnnotator
from lvt_imagenet.token_labels.batch import LabelMap
from lvt_imagenet.token_labels.dataset import UNREADABLE, LabelStore, read_image
from lvt_imagenet.token_labels.names import image_names
from lvt_imagenet.token_labels.output import Names, Output

logger = logging.getLogger(__name__)

_LARGEST = float(np.finfo(np.float16).max)


@dataclass
class Summary:
    """What a run has done.

    Attributes:
        written: images annotated.
        done: images that an earlier run had annotated.
        unreadable: names of images that could not be read.
        agreeing: of ``written``, those whose mean over cells has the image's own class on top.
    """

    written: int = 0
    done: int = 0
    unreadable: list[str] = field(default_factory=list)
    agreeing: int = 0


class WholeImages(Dataset):
    """Images of some indices, whole; None for those that can't be read.

    Args:
        dataset: a timm data set with random access.
        indices: which of its images, in order.
        transform: shows the whole image, so that the map covers it.
    """

    def __init__(self, dataset: ImageDataset, indices: Sequence[int], transform: Callable):
        self.dataset = dataset
        self.indices = indices
        self.transform = transform

    def __getitem__(self, number: int) -> tuple[int, Tensor | str, int]:
        """Index, image or what is wrong with it, class."""
        index = self.indices[number]
        try:
            image, target = read_image(self.dataset, index)
        except UNREADABLE as error:
            return index, str(error), -1
        return index, self.transform(image), int(target)

    def __len__(self) -> int:
        return len(self.indices)


def annotate(
    annotator: DenseAnnotator,
    dataset: ImageDataset,
    output: Output,
    transform: Callable,
    batch_size: int,
    workers: int = 0,
    amp: torch.dtype | None = None,
    progress: bool = False,
) -> Summary:
    """Annotate all that the output has pending, in its order.

    Args:
        annotator: in evaluation mode, on its device.
        dataset: the images.
        output: takes the maps.
        transform: of the whole image, to a normalised tensor (C, H, W).
        batch_size: images at a time.
        workers: processes that read images; 0 reads them here.
        amp: type of mixed precision, or None.
        progress: show a bar, on a terminal.
    """
    device = next(annotator.parameters()).device
    names = image_names(dataset.reader)
    summary = Summary(done=output.done)
    loader = DataLoader(
        WholeImages(dataset, output.pending, transform),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=list,
        pin_memory=False,
    )
    mixed = torch.autocast(device.type, amp) if amp else nullcontext()
    with tqdm(total=len(output.pending), unit="img", disable=None if progress else True) as bar:
        for batch in loader:
            images = [(i, image, target) for i, image, target in batch if target >= 0]
            maps: dict[int, LabelMap] = {}
            if images:
                stacked = torch.stack([image for _, image, _ in images]).to(device)
                with mixed:
                    scores, classes = annotator(stacked)
                for (index, _, _), *one in zip(images, *_on_cpu(scores, classes), strict=True):
                    maps[index] = LabelMap(*one)
                truth = torch.tensor([target for *_, target in images])
                summary.agreeing += int((_winners(scores, classes) == truth).sum())
            for index, image, target in batch:
                if target < 0:
                    summary.unreadable.append("/".join(names[index]))
                    logger.warning(
                        "Image %s can't be read (%s) and gets no labels. Unreadable images so "
                        "far: %d.", summary.unreadable[-1], image, len(summary.unreadable)
                    )  # fmt: skip
                output.add(index, maps.get(index))
            summary.written += len(images)
            bar.update(len(batch))
    return summary


def copy_maps(labels: LabelStore, names: Names, output: Output) -> tuple[int, int]:
    """Give an output the maps of another folder.

    Args:
        labels: the folder.
        names: class and stem of all images.
        output: takes the maps.

    Returns:
        How many maps were copied, and how many images have none, which are named in the log.
    """
    missing = 0
    for index in tqdm(output.pending, unit="img", disable=None):
        try:
            label_map = labels.read(*names[index])
        except DatasetFileNotFoundError as error:
            missing += 1
            logger.warning("%s", error)
            label_map = None
        output.add(index, label_map)
    return len(output.pending) - missing, missing


def _on_cpu(scores: Tensor, classes: Tensor) -> tuple[np.ndarray, np.ndarray]:
    scores = scores.clamp(-_LARGEST, _LARGEST).half()
    return scores.contiguous().cpu().numpy(), classes.int().contiguous().cpu().numpy()


def _winners(scores: Tensor, classes: Tensor) -> Tensor:
    """The class with the highest mean score over the map of every image, (B,)."""
    B, k, h, w = scores.shape
    total = scores.new_zeros(B, int(classes.max()) + 1)
    total.scatter_add_(1, classes.flatten(1), scores.flatten(1))
    return total.argmax(1).cpu()
