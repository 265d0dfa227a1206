"""Label maps of a batch of crops, on their way from the loader to the device."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lvt_d2.errors import DatasetError


class LabelMap(NamedTuple):
    """What an annotator saw in the cells of a coarse map over one whole image.

    Attributes:
        scores: (k, H, W) float16, logits of the k best classes of every cell.
        indices: (k, H, W) integers, these classes.
    """

    scores: np.ndarray
    indices: np.ndarray


class View(NamedTuple):
    """The part of an image that a transform shows: first cropped, then flipped.

    Attributes:
        crop: top, left, height, width, as fractions of the image's sides.
        hflip: left and right are exchanged.
        vflip: top and bottom are exchanged.
    """

    crop: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    hflip: bool = False
    vflip: bool = False


class TokenLabelSample(NamedTuple):
    """Label map, view and ground truth of one image, and its name for messages."""

    label_map: LabelMap
    view: View
    ground_truth: int
    name: str


@dataclass
class TokenLabels:
    """A batch of `TokenLabelSample`; moves to a device as a tensor does.

    Attributes:
        scores: (B, k, H, W) float16.
        indices: (B, k, H, W) int32.
        crop: (B, 4) float32, top, left, height, width as fractions of the image.
        flips: (B, 2) bool, whether the crop was flipped horizontally and vertically.
        ground_truth: (B,) int64.
    """

    scores: Tensor
    indices: Tensor
    crop: Tensor
    flips: Tensor
    ground_truth: Tensor

    @classmethod
    def stack(cls, samples: Sequence[TokenLabelSample]) -> "TokenLabels":
        """The batch of these samples.

        Raises:
            DatasetError: their maps differ in shape.
        """
        first = samples[0]
        for sample in samples:
            if sample.label_map.scores.shape != first.label_map.scores.shape:
                raise DatasetError(
                    f"The label map of {sample.name} is {sample.label_map.scores.shape} and that "
                    f"of {first.name} {first.label_map.scores.shape} (classes, rows, columns); "
                    "expected one shape for the whole set. Write all maps with the same annotator "
                    "and size."
                )
        return cls(
            scores=torch.from_numpy(np.stack([s.label_map.scores for s in samples])),
            indices=torch.from_numpy(
                np.stack([s.label_map.indices for s in samples], dtype=np.int32, casting="unsafe")
            ),
            crop=torch.tensor([s.view.crop for s in samples], dtype=torch.float32),
            flips=torch.tensor([[s.view.hflip, s.view.vflip] for s in samples]),
            ground_truth=torch.tensor([s.ground_truth for s in samples]),
        )

    def __len__(self) -> int:
        return len(self.ground_truth)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "TokenLabels":
        """The same on another device."""
        return TokenLabels(
            *(getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self))
        )

    def pin_memory(self) -> "TokenLabels":
        """The same in page-locked memory; called by `DataLoader`."""
        return TokenLabels(*(getattr(self, f.name).pin_memory() for f in fields(self)))


def collate(batch: Sequence[tuple[np.ndarray | Tensor, TokenLabelSample]]):
    """A batch for `DataLoader`: images (B, C, H, W) of their own type, and `TokenLabels`."""
    first = batch[0][0]
    if isinstance(first, np.ndarray):
        images = torch.from_numpy(np.stack([image for image, _ in batch]))
    else:
        images = torch.stack([image for image, _ in batch])
    return images, TokenLabels.stack([sample for _, sample in batch])
