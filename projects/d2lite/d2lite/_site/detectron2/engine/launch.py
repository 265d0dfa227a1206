"""Starts one process per GPU on this machine and connects them to those on the others."""

import logging
import socket
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from detectron2.utils import comm

__all__ = ["DEFAULT_TIMEOUT", "launch"]

DEFAULT_TIMEOUT = timedelta(minutes=30)
logger = logging.getLogger(__name__)


def _find_free_port() -> int:
    with socket.create_server(("", 0)) as probe:
        return probe.getsockname()[1]


def launch(
    main_func,
    num_gpus_per_machine,
    num_machines=1,
    machine_rank=0,
    dist_url=None,
    args=(),
    timeout=DEFAULT_TIMEOUT,
):
    """Call ``main_func(*args)`` in every process of a distributed job, or here if it is alone.

    Args:
        main_func: a function that a spawned process can import.
        num_gpus_per_machine: processes on each machine; without GPUs they run on gloo.
        num_machines: number of machines.
        machine_rank: 0-based index of this machine.
        dist_url: where the processes meet, "auto" for a free port of this machine.
        args: arguments of ``main_func``.
        timeout: of the distributed workers.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if dist_url == "auto":
        assert num_machines == 1, "dist_url=auto not supported in multi-machine jobs."
        dist_url = f"tcp://127.0.0.1:{_find_free_port()}"
    if num_machines > 1 and dist_url.startswith("file://"):
        logger.warning("file:// is not reliable in multi-machine jobs. Prefer tcp://")
    job = {"init_method": dist_url, "world_size": world_size, "timeout": timeout}
    mp.start_processes(
        _distributed_worker,
        nprocs=num_gpus_per_machine,
        args=(main_func, args, num_gpus_per_machine, machine_rank, job),
        daemon=False,
    )


def _distributed_worker(local_rank, main_func, args, num_gpus_per_machine, machine_rank, job):
    rank = machine_rank * num_gpus_per_machine + local_rank
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        assert num_gpus_per_machine <= torch.cuda.device_count()
        torch.cuda.set_device(local_rank)
    try:
        dist.init_process_group("NCCL" if has_gpu else "GLOO", rank=rank, **job)
    except Exception:
        logger.error(f"Process group URL: {job['init_method']}")
        raise
    comm.create_local_process_group(num_gpus_per_machine)
    # Nobody starts before everybody is here: the first collective call would time out otherwise.
    comm.synchronize()
    main_func(*args)
    # A process that ends while others still talk, its threads running, is aborted now and then.
    comm.synchronize()
    if dist.is_initialized():
        dist.destroy_process_group()
