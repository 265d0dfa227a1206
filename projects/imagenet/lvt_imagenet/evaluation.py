"""Counts what a classifier gets right."""

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lvt_d2.errors import DatasetError, DatasetFileNotFoundError
from lvt_imagenet.distributed import total
from lvt_imagenet.loaders import Loader

logger = logging.getLogger(__name__)

AMP = {"none": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


@torch.no_grad()
def evaluate(
    classify: Callable[[Tensor], Tensor],
    loader: Loader,
    amp: str = "none",
    observers: Iterable[Callable[[Tensor, Tensor], None]] = (),
) -> dict[str, float]:
    """Accuracy and loss over all images of all processes.

    Args:
        classify: images (B, C, H, W) to logits (B, K).
        loader: of this process's images.
        amp: mixed precision: none, float16 or bfloat16.
        observers: called with logits and indices of every batch.

    Returns:
        ``top1``, ``top5`` (of fewer classes: all but that name) and ``loss``, the former in
        percent; ``images`` of all processes; ``images_per_second`` of this one, in all, and
        ``model_images_per_second`` without loading.

    Raises:
        DatasetError: there was no image.
    """
    device = loader.device
    sums = torch.zeros(4, dtype=torch.float64, device=device)  # top1, top5, loss, images
    observers = tuple(observers)
    begin, busy = time.perf_counter(), 0.0
    for images, targets, indices in loader:
        start = time.perf_counter()
        dtype = AMP[amp]
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            logits = classify(images)
        logits = logits.float()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        busy += time.perf_counter() - start
        ranked = logits.topk(min(5, logits.shape[1])).indices == targets[:, None]
        loss = F.cross_entropy(logits, targets, reduction="sum")
        count = loss.new_tensor(len(targets))
        sums += torch.stack([ranked[:, 0].sum(), ranked.sum(), loss, count]).double()
        for observe in observers:
            observe(logits, indices)
    seconds = time.perf_counter() - begin
    own = sums[3].item()
    top1, top5, loss, images = total(sums).tolist()
    if not images:
        raise DatasetError("No image of the validation part could be read; the log names them")
    return {
        "top1": 100 * top1 / images,
        "top5": 100 * top5 / images,
        "loss": loss / images,
        "images": int(images),
        "images_per_second": own / seconds,
        "model_images_per_second": own / max(busy, 1e-9),
    }


class RealLabels:
    """Accuracy on reassessed labels ("Are we done with ImageNet?", arXiv 2006.07159).

    An image counts as right if the first guess is one of its labels; images without labels do not
    count.

    Args:
        path: JSON: a list with the labels of ``ILSVRC2012_val_00000001`` and so on, or an object
            of file names (without folder) and labels.
        name_of: the file name of an image by its index.

    Raises:
        DatasetFileNotFoundError: there is no such file.
        DatasetError: it holds something else.
    """

    def __init__(self, path: str | os.PathLike, name_of: Callable[[int], str]):
        self.labels = _read_labels(Path(path))
        self.path = path
        self.name_of = name_of
        self.right = self.counted = 0

    def __call__(self, logits: Tensor, indices: Tensor) -> None:
        """Count a batch: logits (B, K) of the images with these indices."""
        for guess, index in zip(logits.argmax(1).tolist(), indices.tolist(), strict=True):
            name = Path(self.name_of(index)).name
            if name not in self.labels:
                raise DatasetError(
                    f"The image {name} has no entry in {self.path}, which names "
                    f"{len(self.labels)} images such as {next(iter(self.labels), 'none')}; it "
                    "belongs to another data set"
                )
            labels = self.labels[name]
            self.counted += bool(labels)
            self.right += guess in labels

    @property
    def accuracy(self) -> float:
        """In percent of the images with labels."""
        return 100 * self.right / max(self.counted, 1)


def _read_labels(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise DatasetFileNotFoundError(f"The file of labels {path} does not exist")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(f"The file of labels {path} is no JSON: {error}") from error
    if isinstance(content, list):
        content = {f"ILSVRC2012_val_{i:08d}.JPEG": labels for i, labels in enumerate(content, 1)}
    if not isinstance(content, dict) or not all(isinstance(v, list) for v in content.values()):
        raise DatasetError(
            f"The file of labels {path} has another form; expected a list of lists of classes, or "
            "an object of file names and lists of classes"
        )
    return content
