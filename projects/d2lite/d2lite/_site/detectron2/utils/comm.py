"""Communication between processes that also works where there is only one.

A *machine's* (local) group is what :func:`create_local_process_group` made; ``launch`` calls it.
"""

import functools
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

_LOCAL_PROCESS_GROUP = None


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    return dist.get_world_size() if _is_distributed() else 1


def get_rank() -> int:
    return dist.get_rank() if _is_distributed() else 0


@functools.lru_cache
def create_local_process_group(num_workers_per_machine: int) -> None:
    """Create the groups of the processes that share a machine; every process must call this.

    Args:
        num_workers_per_machine: processes on each machine, typically its number of GPUs.
    """
    global _LOCAL_PROCESS_GROUP
    assert _LOCAL_PROCESS_GROUP is None, "The local process group exists already"
    world_size = get_world_size()
    assert world_size % num_workers_per_machine == 0, (world_size, num_workers_per_machine)
    _LOCAL_PROCESS_GROUP, _ = dist.new_subgroups(num_workers_per_machine)


def get_local_process_group():
    """Group of the processes on this machine, to call torch.distributed's functions with.

    Raises:
        AssertionError: :func:`create_local_process_group` has not been called.
    """
    assert _LOCAL_PROCESS_GROUP is not None, (
        "Local process group is not created yet! Please use detectron2's `launch()`, or call "
        "comm.create_local_process_group(num_workers_per_machine) after init_process_group()."
    )
    return _LOCAL_PROCESS_GROUP


def get_local_rank() -> int:
    """Rank of this process among those of its machine."""
    return dist.get_rank(group=get_local_process_group()) if _is_distributed() else 0


def get_local_size() -> int:
    """Number of processes on this machine."""
    return dist.get_world_size(group=get_local_process_group()) if _is_distributed() else 1


def is_main_process() -> bool:
    return get_rank() == 0


def synchronize() -> None:
    """Wait until every process has come here."""
    if get_world_size() > 1:
        # NCCL guesses the device otherwise.
        on_gpu = dist.get_backend() == dist.Backend.NCCL
        dist.barrier(device_ids=[torch.cuda.current_device()] if on_gpu else None)


@functools.lru_cache
def _get_global_gloo_group():
    """Group of all processes that can send objects from the CPU."""
    return dist.new_group(backend="gloo") if dist.get_backend() == "nccl" else dist.group.WORLD


def _group_and_places(group) -> tuple[Any, list[None]]:
    """The group that is meant, and a place for the object of each of its processes."""
    if get_world_size() == 1:
        return None, [None]
    group = _get_global_gloo_group() if group is None else group
    return group, [None] * dist.get_world_size(group)


def all_gather(data: Any, group=None) -> list[Any]:
    """List of every process's `data` (any picklable object), in the order of ranks.

    Args:
        data: object of this process.
        group: process group; by default all processes, through gloo.
    """
    group, gathered = _group_and_places(group)
    if len(gathered) == 1:
        return [data]
    dist.all_gather_object(gathered, data, group=group)
    return gathered


def gather(data: Any, dst: int = 0, group=None) -> list[Any]:
    """Like :func:`all_gather`, but only rank `dst` gets the list; others get an empty one."""
    group, gathered = _group_and_places(group)
    if len(gathered) == 1:
        return [data]
    gathered = gathered if dist.get_rank(group) == dst else None
    dist.gather_object(data, gathered, dst=dst, group=group)
    return gathered or []


def shared_random_seed() -> int:
    """Random number, the same in all processes, of rank 0's numpy generator: all must call it."""
    return all_gather(np.random.randint(2**31))[0]


def reduce_dict(input_dict: dict[str, torch.Tensor], average: bool = True):
    """Sum or mean of every process's scalars, right on rank 0 only.

    Args:
        input_dict: 0-dim tensors, with the same keys in every process.
        average: mean instead of sum.
    """
    world_size = get_world_size()
    if world_size < 2:
        return input_dict
    with torch.no_grad():
        names = sorted(input_dict)
        values = torch.stack([input_dict[name] for name in names])
        dist.reduce(values, dst=0)
        if average and get_rank() == 0:
            values /= world_size
        return dict(zip(names, values, strict=True))
