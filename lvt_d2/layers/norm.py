"""Norms in the form that Detectron2's layers take them."""

from collections.abc import Callable
from functools import partial

import torch.distributed as dist
from detectron2.utils import comm
from torch import nn


def group_norm(num_groups: int) -> Callable[[int], nn.GroupNorm]:
    """A ``norm`` argument for Detectron2's layers: GroupNorm of ``num_groups`` groups.

    Detectron2's own name "GN" means 32 groups, which does not divide 48 channels.
    """
    return partial(nn.GroupNorm, num_groups)


def sync_batch_norm() -> Callable[[int], nn.Module]:
    """A ``norm`` argument: BatchNorm over the images of all processes that train on GPUs.

    On a single GPU, and on CPUs, for which PyTorch has no synchronised one, it is BatchNorm over
    the process' own images. Parameters have the same names in both.
    """
    several_gpus = comm.get_world_size() > 1 and "nccl" in dist.get_backend()
    return nn.SyncBatchNorm if several_gpus else nn.BatchNorm2d
