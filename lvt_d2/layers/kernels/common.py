"""What the fast paths share."""

import torch
from torch import Tensor


def in_autocast_dtype(*tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors as autocast would cast them for a matrix product, if it is on.

    The fast paths compute under `without_autocast`, since some of their operations write into
    buffers, which autocast does not handle.
    """
    device = next(t for t in tensors if t is not None).device.type
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [t.to(dtype) if t is not None and t.is_floating_point() else t for t in tensors]


def without_autocast(x: Tensor) -> torch.autocast:
    """Context in which autocast is off on the tensor's device."""
    return torch.autocast(x.device.type, enabled=False)


def needs_grad(*tensors: Tensor | None) -> bool:
    """Whether a backward pass will ask for a gradient of one of them."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
