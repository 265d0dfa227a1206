"""Best classes of score maps, and how often each is predicted for each true one."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

# Of a strip of rows: on a CPU its best scores stay in the cache, on a GPU it bounds what argmax
# allocates. On one core of an AMD EPYC 32,768 took 80 ms for 150x512x683, 4096 twice that.
_CPU_PIXELS = 2**15
_GPU_PIXELS = 2**20


def best_classes(scores: Tensor) -> Tensor:
    """Class with the highest score of each pixel, the first one of several.

    Args:
        scores: (K, H, W) floats.

    Returns:
        (H, W) on the same device, uint8 up to 256 classes and int32 above.
    """
    classes, height, width = scores.shape
    dtype = torch.uint8 if classes <= 256 else torch.int32
    best = torch.zeros((height, width), dtype=dtype, device=scores.device)
    on_cpu = scores.device.type == "cpu"
    rows = max(1, (_CPU_PIXELS if on_cpu else _GPU_PIXELS) // max(width, 1))
    strips = zip(scores.split(rows, dim=1), best.split(rows), strict=True)
    if not on_cpu:
        for values, labels in strips:
            labels.copy_(values.argmax(dim=0))
        return best
    # NumPy runs in the thread that calls it, without holding the interpreter's lock.
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(lambda strip: _running_best(*strip), strips))
    return best


def _running_best(scores: Tensor, best: Tensor) -> None:
    """Write the best classes of (K, h, W) scores on a CPU into (h, W) zeros.

    PyTorch and NumPy search for the largest along the classes pixel by pixel. Class by class, all
    pixels are compared at once, which is five times as fast.
    """
    if scores.dtype not in (torch.float32, torch.float64):
        scores = scores.float()
    values = scores.detach().numpy()
    labels = best.numpy()
    highest = values[0].copy()
    higher = np.empty(highest.shape, dtype=np.uint8)
    candidate = np.empty(highest.shape, dtype=labels.dtype)
    for label, value in enumerate(values[1:], start=1):
        np.greater(value, highest, out=higher.view(bool))
        # Classes come in rising order, so the larger one of the labels is the better one.
        np.multiply(higher, labels.dtype.type(label), out=candidate)
        np.maximum(labels, candidate, out=labels)
        np.maximum(highest, value, out=highest)


class Confusion:
    """Pixels by predicted and true class, summed over images on the predictions' device.

    Args:
        num_classes: classes K.
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self._counts: dict[torch.device, Tensor] = {}

    def update(self, predicted: Tensor, true: np.ndarray) -> None:
        """Add one image.

        Args:
            predicted: (H, W) integers 0..K-1.
            true: (H, W) integers 0..K, of which K is ignored.

        Raises:
            ValueError: a predicted class is beyond the K.
        """
        if not predicted.numel():
            return
        low, high = (int(v) for v in torch.aminmax(predicted))
        if low < 0 or high >= self.num_classes:
            raise ValueError(
                f"the predicted labels are {low}..{high}; expected 0..{self.num_classes - 1}"
            )
        columns = self.num_classes + 1
        bins = self.num_classes * columns
        if predicted.device.type == "cpu":
            joint = np.multiply(predicted.numpy(), columns, dtype=np.intp)
            joint += true
            counts = torch.from_numpy(np.bincount(joint.ravel(), minlength=bins))
        else:
            true = torch.from_numpy(true).to(predicted.device, non_blocking=True)
            joint = predicted.to(torch.int32) * columns + true
            counts = torch.bincount(joint.flatten(), minlength=bins)
        if predicted.device not in self._counts:
            self._counts[predicted.device] = torch.zeros_like(counts)
        self._counts[predicted.device] += counts

    def matrix(self) -> np.ndarray:
        """(K, K) int64 pixels; rows are predicted, columns true."""
        total = np.zeros((self.num_classes, self.num_classes + 1), dtype=np.int64)
        for counts in self._counts.values():
            total += counts.cpu().numpy().reshape(total.shape)
        return total[:, :-1].copy()
