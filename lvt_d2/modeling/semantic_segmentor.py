"""Semantic segmentation with Detectron2's model, from one view of an image or from several."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, SemanticSegmentor
from detectron2.structures import ImageList
from torch import Tensor

# Values of one strip of the result that are worked on at a time: 16 MiB in single precision.
STRIP_VALUES = 2**22


@META_ARCH_REGISTRY.register()
class MultiViewSemanticSegmentor(SemanticSegmentor):
    """Detectron2's ``SemanticSegmentor`` with options for inference.

    With the defaults it is ``SemanticSegmentor``: it returns logits, seen in one view. Views are
    the image at every one of ``scales``, and mirrored if ``flip``. A view is seen at once, or
    through sliding windows; where these overlap, their **logits** are averaged: they are estimates
    of one network at one scale, and the official code does so. Views are averaged as
    **probabilities** at the image's own size, as in the official code: the logits of some scales
    are spread wider than those of others, and their mean would follow the most confident one.

    Logits are resized twice, from the head's stride to the network's input and from there to the
    image's own size, as by Detectron2, but in strips of rows, on the model's device. What inference
    holds beside the network's activations are the logits of all views at the head's stride
    (13.5 MB for 150 classes at 512x704) and a few arrays of ``STRIP_VALUES``; no map of K
    classes at full size is made unless it is the result.

    Args:
        labels_only: return the best class of every pixel in place of K scores.
        flip: add the mirror image of every view.
        scales: factors of the network's input size; sides are rounded up to what the backbone
            divides. 1.0 leaves the input as it is.
        window: height and width of the sliding windows in pixels, or one number for both; None
            sees a view at once. Smaller images get one window of their own size.
        window_stride: pixels from one window to the next, in either direction or one number for
            both; not above ``window``.
        windows_per_batch: windows that the network sees at a time.
        **kwargs: as for ``SemanticSegmentor``; its ``sem_seg_head`` needs a method ``layers`` as
            ``SemSegFPNHead`` has it, unless all options have their defaults.
    """

    @configurable
    def __init__(
        self,
        *,
        labels_only: bool = False,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        window: int | Sequence[int] | None = None,
        window_stride: int | Sequence[int] | None = None,
        windows_per_batch: int = 4,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.labels_only = labels_only
        self.flip = flip
        self.scales = tuple(scales)
        self.window = _pair(window)
        self.window_stride = _pair(window_stride)
        self.windows_per_batch = windows_per_batch
        self._check_options()

    def _check_options(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales is {self.scales}; expected positive factors, one at least")
        if (self.window is None) != (self.window_stride is None):
            raise ValueError(
                f"window is {self.window} and window_stride is {self.window_stride}; expected both "
                "or neither"
            )
        if self.window is not None:
            for side, stride in zip(self.window, self.window_stride, strict=True):
                if not 1 <= stride <= side:
                    raise ValueError(
                        f"window_stride is {self.window_stride} for a window of {self.window}; "
                        "expected at least 1 and, to leave no gaps, at most the window"
                    )
        if self.windows_per_batch < 1:
            raise ValueError(f"windows_per_batch is {self.windows_per_batch}; expected 1 or more")
        if not (self._is_plain or hasattr(self.sem_seg_head, "layers")):
            raise ValueError(
                f"sem_seg_head is a {type(self.sem_seg_head).__name__}, which has no method "
                "layers(features) that returns logits before they are upsampled, as SemSegFPNHead "
                "has; labels_only, flip, scales and window need it"
            )

    @property
    def _is_plain(self) -> bool:
        """Whether nothing is asked for that ``SemanticSegmentor`` would do otherwise."""
        one_view = self.scales == (1.0,) and not self.flip and self.window is None
        return one_view and not self.labels_only

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Train or predict.

        Args:
            batched_inputs: Detectron2's standard format: ``image`` (C, H, W), ``sem_seg`` (H, W) in
                training, ``height`` and ``width`` of the wanted output.

        Returns:
            In training the losses. Else for every image ``{"sem_seg": x}`` at the wanted size: x is
            (K, height, width) logits, or probabilities where views are averaged; with
            ``labels_only`` (height, width) labels, uint8 up to 256 classes and int32 above.
        """
        if self.training or self._is_plain:
            return super().forward(batched_inputs)
        images = [sample["image"].to(self.device) for sample in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        views = [[] for _ in images]
        for scale in self.scales:
            scaled = [self._scale(image, scale) for image in images]
            for mirrored in (False, True) if self.flip else (False,):
                seen = [image.flip(-1) for image in scaled] if mirrored else scaled
                for view, of_image in zip(self._look(seen, mirrored), views, strict=True):
                    of_image.append(view)
        return [
            {
                "sem_seg": self._merge(
                    of_image,
                    sample.get("height", image.shape[-2]),
                    sample.get("width", image.shape[-1]),
                )
            }
            for of_image, sample, image in zip(views, batched_inputs, images, strict=True)
        ]

    def _scale(self, image: Tensor, scale: float) -> Tensor:
        """Resize a normalised (C, H, W) image, bilinear and not antialiased, as it was before."""
        if scale == 1:
            return image
        step = max(self.backbone.size_divisibility, 1)
        size = [math.ceil(max(side * scale, 1) / step) * step for side in image.shape[-2:]]
        return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]

    def _look(self, images: list[Tensor], mirrored: bool) -> Iterator["_View"]:
        """A view of each of the normalised images, which may be mirrored."""
        if self.window is None:
            for image, patch in zip(images, self._patches(images), strict=True):
                yield _View(tuple(image.shape[-2:]), [0], [0], [patch], mirrored)
            return
        for image in images:
            height, width = (min(w, i) for w, i in zip(self.window, image.shape[-2:], strict=True))
            tops = _starts(image.shape[-2], height, self.window_stride[0])
            lefts = _starts(image.shape[-1], width, self.window_stride[1])
            windows = [image[:, y : y + height, x : x + width] for y in tops for x in lefts]
            patches = []
            for i in range(0, len(windows), self.windows_per_batch):
                patches += self._patches(windows[i : i + self.windows_per_batch])
            yield _View(tuple(image.shape[-2:]), tops, lefts, patches, mirrored)

    def _patches(self, images: list[Tensor]) -> list["_Patch"]:
        """Run the network on a batch of normalised images."""
        batch = ImageList.from_tensors(
            images,
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )
        logits = self.sem_seg_head.layers(self.backbone(batch.tensor))
        if logits.dtype in (torch.float16, torch.bfloat16):  # autocast; too coarse for comparisons
            logits = logits.float()
        return [
            _Patch(of_image, tuple(batch.tensor.shape[-2:]), tuple(image.shape[-2:]))
            for of_image, image in zip(logits, images, strict=True)
        ]

    def _merge(self, views: list["_View"], height: int, width: int) -> Tensor:
        """Scores or labels from all views of an image, at the wanted size."""
        logits = views[0].patches[0].logits
        classes = len(logits)
        if self.labels_only:
            dtype = torch.uint8 if classes <= 256 else torch.int32
            result = logits.new_empty((height, width), dtype=dtype)
        else:
            result = logits.new_empty((classes, height, width))
        widest = max(width, *(view.size[1] for view in views))
        step = max(STRIP_VALUES // (classes * widest), 1)
        for start in range(0, height, step):
            stop = min(start + step, height)
            with torch.autocast(logits.device.type, enabled=False):
                scores = _mean_rows(views, start, stop, (height, width))
            # The indices of max are those of argmax, in half the time on a CPU.
            strip = scores.max(dim=0).indices if self.labels_only else scores
            result[..., start:stop, :] = strip
        return result


@dataclass
class _Patch:
    """What the network says of a piece of a view.

    Attributes:
        logits: (K, h, w) at the head's stride.
        padded: (height, width) of the network's input, to which the logits are resized.
        size: (height, width) of the piece within, at the upper left.
    """

    logits: Tensor
    padded: tuple[int, int]
    size: tuple[int, int]

    def mixed_rows(self, start: int, stop: int, mix: Tensor) -> Tensor:
        """Linear combinations of rows of the resized logits.

        Args:
            start: first row that takes part.
            stop: behind the last one.
            mix: (S, stop - start), a combination in each row.

        Returns:
            (K, S, width).
        """
        first, weights = _row_weights(self.logits.shape[1], self.padded[0], start, stop)
        rows = _resized_width(self.logits[:, first : first + weights.shape[1]], self.padded[1])
        return (mix @ weights).to(rows) @ rows[..., : self.size[1]]


@dataclass
class _View:
    """An image as the network saw it: a grid of patches that may overlap.

    Attributes:
        size: (height, width) of the view.
        tops: first row of the patches of each row of the grid.
        lefts: first column of those of each column of the grid.
        patches: row by row, all of one size; they cover the view.
        mirrored: whether left and right are swapped.
    """

    size: tuple[int, int]
    tops: list[int]
    lefts: list[int]
    patches: list[_Patch]
    mirrored: bool

    def rows(self, start: int, stop: int, size: tuple[int, int]) -> Tensor:
        """Rows of the logits, resized to the image's own ``size`` and not mirrored."""
        height, width = self.patches[0].size
        first, weights = _row_weights(self.size[0], size[0], start, stop)
        weights = weights / _cover(self.tops, height, self.size[0])[first:][: weights.shape[1]]
        last = first + weights.shape[1]
        logits = self.patches[0].logits
        total = logits.new_zeros((len(logits), stop - start, self.size[1]))
        patches = iter(self.patches)
        for top in self.tops:
            begin, end = max(first, top), min(last, top + height)
            for left in self.lefts:
                patch = next(patches)
                if begin < end:
                    mix = weights[:, begin - first : end - first]
                    rows = patch.mixed_rows(begin - top, end - top, mix)
                    total[..., left : left + width] += rows
        total /= _cover(self.lefts, width, self.size[1]).to(total)
        total = _resized_width(total, size[1])
        return total.flip(-1) if self.mirrored else total


def _mean_rows(views: list[_View], start: int, stop: int, size: tuple[int, int]) -> Tensor:
    """Logits of the one view, or mean probabilities of several: (K, stop - start, width)."""
    if len(views) == 1:
        return views[0].rows(start, stop, size)
    return sum(view.rows(start, stop, size).softmax(dim=0) for view in views) / len(views)


def _row_weights(height: int, new_height: int, start: int, stop: int) -> tuple[int, Tensor]:
    """What rows start..stop-1 are made of when bilinear interpolation resizes the height.

    Strips come from a matrix product: it is several times as fast as picking and mixing rows, and
    resizing twice is one product, too.

    Returns:
        The first of the rows that they are made of, and the weights (stop - start, rows).
    """
    # In single precision and in this order, as PyTorch's own kernels find the two rows to mix.
    at = (torch.arange(start, stop, dtype=torch.float32) + 0.5) * (height / new_height) - 0.5
    at = at.clamp(min=0)
    upper = at.long().clamp(max=height - 1)
    lower = (upper + 1).clamp(max=height - 1)
    first = int(upper[0])
    weights = torch.zeros(stop - start, int(lower[-1]) + 1 - first)
    rows = torch.arange(stop - start)
    weights[rows, upper - first] = 1 - (at - upper)
    weights[rows, lower - first] += at - upper
    return first, weights


def _resized_width(rows: Tensor, width: int) -> Tensor:
    if rows.shape[-1] == width:
        return rows
    size = (rows.shape[1], width)
    return F.interpolate(rows[None], size=size, mode="bilinear", align_corners=False)[0]


def _cover(starts: list[int], window: int, length: int) -> Tensor:
    """How many windows along a side cover each of its pixels."""
    count = torch.zeros(length)
    for start in starts:
        count[start : start + window] += 1
    return count


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along a side: every ``stride``; the last one ends with the side."""
    return [*range(0, length - window, stride), length - window]


def _pair(value: int | Sequence[int] | None) -> tuple[int, int] | None:
    if value is None:
        return None
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{value} pixels; expected a positive number, or a height and a width")
    return pair
