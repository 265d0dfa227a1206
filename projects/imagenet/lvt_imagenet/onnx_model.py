"""A classifier in an ONNX file."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lvt_d2.errors import CheckpointError, CheckpointFileNotFoundError, ConfigError


class OnnxClassifier:
    """Runs an ONNX file of one input, images (B, C, H, W), whose first output are logits (B, K).

    Args:
        path: the file.

    Attributes:
        size: height and width that the file asks for; None where it takes any.
        channels: C.

    Raises:
        ConfigError: onnxruntime is not installed.
        CheckpointFileNotFoundError: there is no such file.
        CheckpointError: it is no ONNX file, or has other inputs.
    """

    def __init__(self, path: str | os.PathLike):
        if not Path(path).is_file():
            raise CheckpointFileNotFoundError(f"The ONNX file {path} does not exist")
        try:
            import onnxruntime
        except ImportError as error:
            raise ConfigError(
                f"{path} is an ONNX file, which needs onnxruntime; pip install onnxruntime"
            ) from error
        available = onnxruntime.get_available_providers()
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), providers=[name for name in wanted if name in available]
            )
        except Exception as error:  # onnxruntime has classes of its own for each reason
            raise CheckpointError(
                f"{path} can't be run: {' '.join(str(error).split())}. Export it again"
            ) from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
            found = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
            raise CheckpointError(
                f"{path} has the inputs {found}; expected images alone, tensor(float) (B, C, H, W)"
            )
        self.path = path
        self._input = inputs[0].name
        self._batch, self.channels, *size = (
            side if isinstance(side, int) else None for side in inputs[0].shape
        )
        self.size = size if all(size) else None

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        pixels = images.cpu().numpy()
        step = self._batch or len(pixels)
        parts = [self._run(pixels[i : i + step], step) for i in range(0, len(pixels), step)]
        return torch.from_numpy(np.concatenate(parts)).to(images.device)

    def _run(self, pixels: np.ndarray, step: int) -> np.ndarray:
        padding = np.zeros((step - len(pixels), *pixels.shape[1:]), pixels.dtype)
        try:
            outputs = self._session.run(None, {self._input: np.concatenate([pixels, padding])})
        except Exception as error:
            raise CheckpointError(
                f"{self.path} refuses images of {pixels.shape[1:]} (channels, height, width): "
                f"{' '.join(str(error).split())}"
            ) from error
        logits = outputs[0]
        if logits.ndim != 2 or len(logits) != step:
            raise CheckpointError(
                f"{self.path} gives {logits.shape} for {step} images; expected a classifier's "
                "logits (B, K)"
            )
        return logits[: len(pixels)].astype(np.float32)
