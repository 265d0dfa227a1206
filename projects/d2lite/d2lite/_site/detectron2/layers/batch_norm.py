"""Normalisation layers, and their short names in configs."""

import functools

import torch
from fvcore.nn.distributed import differentiable_all_reduce
from torch import Tensor, nn

from detectron2.utils import comm

from .wrappers import BatchNorm2d


class FrozenBatchNorm2d(nn.Module):
    """BatchNorm of fixed statistics and fixed affine factors, all of them buffers.

    Starts as the identity. Older state dicts (version 1) hold no statistics and get 0 and 1.
    """

    _version = 3

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.num_features, self.eps = num_features, eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)
        self.register_buffer("num_batches_tracked", None)

    def forward(self, x: Tensor) -> Tensor:
        mean, var, weight, bias = self.running_mean, self.running_var, self.weight, self.bias
        if not x.requires_grad:
            return nn.functional.batch_norm(x, mean, var, weight, bias, eps=self.eps)
        # batch_norm's backward would also spend memory on the gradients of the affine factors.
        scale = weight * (var + self.eps).rsqrt()
        shift = bias - mean * scale
        return x * scale.to(x.dtype)[:, None, None] + shift.to(x.dtype)[:, None, None]

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        if (local_metadata.get("version") or 1) < 2:
            state_dict.setdefault(prefix + "running_mean", torch.zeros_like(self.running_mean))
            state_dict.setdefault(prefix + "running_var", torch.ones_like(self.running_var))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def __repr__(self) -> str:
        return f"FrozenBatchNorm2d(num_features={self.num_features}, eps={self.eps})"

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Replace every BatchNorm2d and SyncBatchNorm by a frozen one with its numbers.

        Returns:
            ``module``, changed in place, or the new layer where it is such a norm itself.
        """
        return _convert(module, (nn.BatchNorm2d, nn.SyncBatchNorm), cls)

    @classmethod
    def convert_frozenbatchnorm2d_to_batchnorm2d(cls, module: nn.Module) -> nn.Module:
        """Replace every frozen norm by a BatchNorm2d with its numbers.

        Returns:
            ``module``, changed in place, or the new layer where it is such a norm itself.
        """
        return _convert(module, (cls,), nn.BatchNorm2d)


def _convert(module: nn.Module, from_types: tuple[type, ...], to_type: type) -> nn.Module:
    if not isinstance(module, from_types):
        for name, child in module.named_children():
            module.add_module(name, _convert(child, from_types, to_type))
        return module
    result = to_type(module.num_features).to(module.running_mean.device)
    for name in ("weight", "bias", "running_mean", "running_var"):
        if getattr(module, name) is not None:
            getattr(result, name).data = getattr(module, name).data.clone()
    result.eps = module.eps
    result.num_batches_tracked = module.num_batches_tracked
    return result


def get_norm(norm, out_channels: int) -> nn.Module | None:
    """Make a normalisation layer.

    Args:
        norm: "BN", "SyncBN", "FrozenBN", "GN" (32 groups), "nnSyncBN", "naiveSyncBN",
            "naiveSyncBN_N", "LN", or a callable that takes the number of channels.
        out_channels: C.

    Returns:
        The layer; None for None and "".

    Raises:
        KeyError: another name.
    """
    if norm is None or norm == "":
        return None
    make = _NORMS[norm] if isinstance(norm, str) else norm
    return make(out_channels)


class NaiveSyncBatchNorm(BatchNorm2d):
    """BatchNorm over all processes that exchanges sums of means, not of pixels.

    Correct where every process has images of the same size. With ``stats_mode="N"`` processes count
    by their number of images, which may be 0.
    """

    def __init__(self, *args, stats_mode: str = "", **kwargs):
        """Pass all arguments but one to ``torch.nn.BatchNorm2d``.

        Args:
            *args: of ``torch.nn.BatchNorm2d``.
            stats_mode: "" (every process counts the same) or "N" (by its number of images).
            **kwargs: of ``torch.nn.BatchNorm2d``.
        """
        super().__init__(*args, **kwargs)
        assert stats_mode in ["", "N"], f"stats_mode must be '' or 'N', got {stats_mode!r}"
        self._stats_mode = stats_mode

    def forward(self, input: Tensor) -> Tensor:
        if comm.get_world_size() == 1 or not self.training:
            return super().forward(input)
        B, C = input.shape[:2]
        by_images = self._stats_mode == "N"
        assert B > 0 or by_images, 'SyncBatchNorm(stats_mode="") does not support zero batch size.'
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        # The sum of nothing keeps the input in the graph.
        sums = x.new_zeros(2 * C + 1) + x.sum()
        if B > 0:
            sums = torch.cat([x.mean([0, 2, 3]), (x * x).mean([0, 2, 3]), x.new_ones(1)])
            sums = sums * (B if by_images else 1)
        sums = differentiable_all_reduce(sums)
        count = sums[-1].detach()
        mean, square, _ = (sums / count.clamp(min=1)).split([C, C, 1])
        var = square - mean * mean
        scale = self.weight * torch.rsqrt(var + self.eps)
        bias = self.bias - mean * scale
        momentum = self.momentum * count.clamp(max=1)  # no images anywhere: no update
        self.running_mean += momentum * (mean.detach() - self.running_mean)
        self.running_var += momentum * (var.detach() - self.running_var)
        return (x * scale[:, None, None] + bias[:, None, None]).to(input.dtype)


class LayerNorm(nn.Module):
    """LayerNorm over the channels of (B, C, H, W)."""

    def __init__(self, normalized_shape: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(normalized_shape))
        self.bias = nn.Parameter(torch.zeros(normalized_shape))
        self.eps, self.normalized_shape = eps, (normalized_shape,)

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(1, keepdim=True)
        x = x / torch.sqrt((x * x).mean(1, keepdim=True) + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


_NORMS = {
    "BN": BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
    "GN": functools.partial(nn.GroupNorm, 32),
    "nnSyncBN": nn.SyncBatchNorm,
    "naiveSyncBN": NaiveSyncBatchNorm,
    "naiveSyncBN_N": functools.partial(NaiveSyncBatchNorm, stats_mode="N"),
    "LN": LayerNorm,
}
