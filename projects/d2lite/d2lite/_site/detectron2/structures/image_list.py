"""Images of different sizes as one padded batch."""

from typing import Any, Dict, List, Optional, Tuple  # noqa: UP035 (TorchScript compiles this)

import torch
from torch import Tensor, device
from torch.nn import functional as F

from detectron2.layers.wrappers import shapes_to_tensor


class ImageList:
    """A batch whose images fill only the top left part of their slot.

    Attributes:
        tensor: (N, ..., H, W).
        image_sizes: N pairs (height, width); tensors (2,) while tracing.
    """

    def __init__(self, tensor: Tensor, image_sizes: List[Tuple[int, int]]):  # noqa: UP006
        self.tensor, self.image_sizes = tensor, image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> Tensor:
        """Return one image without its padding, (..., h, w); it shares memory with the batch."""
        size = self.image_sizes[idx]
        return self.tensor[idx, ..., : size[0], : size[1]]

    @torch.jit.unused
    def to(self, *args: Any, **kwargs: Any) -> "ImageList":
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> device:
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: List[Tensor],  # noqa: UP006
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: Optional[Dict[str, int]] = None,  # noqa: UP006, UP045
    ) -> "ImageList":
        """Pad images at the bottom and the right to the largest height and width.

        Args:
            tensors: at least one image (..., h, w); they differ in h and w only.
            size_divisibility: the padded sides become multiples of it where it is above 1.
            pad_value: value of the padding.
            padding_constraints: ``size_divisibility`` replaces the argument of that name;
                ``square_size`` above 0 sets both padded sides, in pixels.

        Raises:
            AssertionError: no images, another type, or leading dimensions that differ.
        """
        assert len(tensors) > 0
        assert isinstance(tensors, (tuple, list))
        for image in tensors:
            assert isinstance(image, Tensor), type(image)
            assert image.shape[:-2] == tensors[0].shape[:-2], image.shape

        square_size = 0
        if padding_constraints is not None:
            square_size = padding_constraints.get("square_size", 0)
            size_divisibility = padding_constraints.get("size_divisibility", size_divisibility)

        image_sizes = [(image.shape[-2], image.shape[-1]) for image in tensors]
        if not torch.jit.is_scripting():
            if torch.jit.is_tracing():
                # Sizes have to stay tensors, or the graph holds for one image size only.
                return _from_tensors_traced(tensors, size_divisibility, pad_value, square_size)
        height = max([size[0] for size in image_sizes])
        width = max([size[1] for size in image_sizes])
        if square_size > 0:
            height = width = square_size
        if size_divisibility > 1:
            height += -height % size_divisibility
            width += -width % size_divisibility

        if len(tensors) == 1:
            margin = [0, width - image_sizes[0][1], 0, height - image_sizes[0][0]]
            return ImageList(F.pad(tensors[0], margin, value=pad_value)[None], image_sizes)
        shape = [len(tensors)] + list(tensors[0].shape[:-2]) + [height, width]  # noqa: RUF005
        batch = tensors[0].new_full(shape, pad_value)
        for i, image in enumerate(tensors):
            batch[i, ..., : image.shape[-2], : image.shape[-1]].copy_(image)
        return ImageList(batch, image_sizes)


def _from_tensors_traced(tensors, size_divisibility: int, pad_value: float, square_size: int):
    sizes = [shapes_to_tensor([image.shape[-2], image.shape[-1]]) for image in tensors]
    largest = torch.stack(sizes).amax(0)
    if square_size > 0:
        largest = torch.full_like(largest, square_size)
    if size_divisibility > 1:
        largest = (largest + (size_divisibility - 1)) // size_divisibility * size_divisibility
    margins = [[0, largest[1] - size[1], 0, largest[0] - size[0]] for size in sizes]
    padded = [F.pad(x, m, value=pad_value) for x, m in zip(tensors, margins, strict=True)]
    return ImageList(torch.stack(padded), sizes)
