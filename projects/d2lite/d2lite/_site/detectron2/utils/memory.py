"""Second chances for functions that run out of GPU memory."""

import functools
import logging
from contextlib import contextmanager

import torch

__all__ = ["retry_if_cuda_oom"]


@contextmanager
def _ignore_torch_cuda_oom():
    try:
        yield
    except RuntimeError as error:
        if "CUDA out of memory. " not in str(error):
            raise


def _to_cpu(x):
    on_gpu = getattr(getattr(x, "device", None), "type", None) == "cuda" and hasattr(x, "to")
    return x.to(device="cpu") if on_gpu else x


def retry_if_cuda_oom(func):
    """Call `func` again after CUDA ran out of memory: with an emptied cache, then on the CPU.

    Only arguments that are on the GPU themselves and have ``.to`` are moved, nested ones are not,
    so `func` must be stateless and follow the device of its arguments; its result may then be on
    the CPU.
    """

    @functools.wraps(func)
    def wrapped(*args, **kwargs):
        for _ in range(2):
            with _ignore_torch_cuda_oom():
                return func(*args, **kwargs)
            torch.cuda.empty_cache()
        message = f"Attempting to copy inputs of {func} to CPU due to CUDA OOM"
        logging.getLogger(__name__).info(message)
        return func(*map(_to_cpu, args), **{k: _to_cpu(v) for k, v in kwargs.items()})

    return wrapped
