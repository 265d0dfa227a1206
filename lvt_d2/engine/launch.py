"""Starts the processes of a training on CPU or GPU, by itself or under torchrun."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

from lvt_d2.errors import ConfigError, LVTError

TIMEOUT = timedelta(minutes=30)
INTERRUPTED = 128 + signal.SIGINT  # what shells expect of a program ended by Ctrl-C
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def under_torchrun() -> bool:
    """Whether this process is one of a group that torchrun (or its like) has started."""
    return all(name in os.environ for name in _TORCHRUN)


def is_gpu(device: str) -> bool:
    """Whether ``train.device`` is a GPU.

    Raises:
        ConfigError: it is neither a GPU nor the CPU.
    """
    if device not in ("cpu", "cuda"):
        raise ConfigError(
            f"train.device is {device!r}; expected 'cuda' (the GPU of each process; choose among "
            "them by CUDA_VISIBLE_DEVICES) or 'cpu'"
        )
    return device == "cuda"


def check_devices(num_gpus: int, device: str) -> int:
    """Number of processes to start on this machine.

    Args:
        num_gpus: as asked on the command line; 0 is one process on the CPU.
        device: ``train.device`` of the config.

    Raises:
        ConfigError: there are not so many GPUs here; says how many were found.
    """
    if num_gpus < 0:
        raise ConfigError(f"--num-gpus is {num_gpus}; expected 0 (CPU) or more")
    if is_gpu(device):
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if num_gpus > found:
            remedy = f"--num-gpus {found}" if found else "--num-gpus 0, which trains on the CPU"
            raise ConfigError(
                f"--num-gpus asks for {num_gpus} GPU{'s' * (num_gpus > 1)}, but PyTorch "
                f"{torch.__version__} finds {found} on this machine. Use {remedy}, or make more "
                "visible (driver, CUDA build of PyTorch, CUDA_VISIBLE_DEVICES)"
            )
    return max(num_gpus, 1)


def check_machines(args: argparse.Namespace) -> None:
    """Find contradictions in what the command line says of this job's machines.

    Raises:
        ConfigError: there is one; processes would wait for others that never come.
    """
    if args.num_machines < 1:
        raise ConfigError(f"--num-machines is {args.num_machines}; expected 1 or more")
    if not 0 <= args.machine_rank < args.num_machines:
        raise ConfigError(
            f"--machine-rank is {args.machine_rank}, but --num-machines {args.num_machines} gives "
            f"ranks from 0 to {args.num_machines - 1}, every one to one machine"
        )
    if args.dist_url == "auto":
        if args.num_machines > 1:
            raise ConfigError(
                f"--num-machines is {args.num_machines}, which needs --dist-url "
                "tcp://ADDRESS:PORT of the machine with --machine-rank 0"
            )
    elif not _is_meeting_place(args.dist_url):
        raise ConfigError(
            f"--dist-url is {args.dist_url!r}; expected tcp://ADDRESS:PORT, file:///PATH, env://, "
            "or auto for processes of one machine"
        )


def _is_meeting_place(url: str) -> bool:
    try:
        parts = urlsplit(url)
        if parts.scheme == "tcp":
            return bool(parts.hostname and parts.port)
    except ValueError:  # no such port
        return False
    return parts.scheme == "env" or (parts.scheme == "file" and bool(parts.path))


def launch(main: Callable, args: argparse.Namespace, device: str) -> int:
    """Call ``main(args)`` in every process of the job and return the exit status of the program.

    A user's error (`LVTError`) is printed as its text alone; every other exception propagates.

    Args:
        main: a function that a spawned process can import.
        args: of ``detectron2.engine.default_argument_parser``.
        device: ``train.device``; processes talk by NCCL on "cuda" and by gloo on "cpu".
    """
    try:
        check_machines(args)
        if under_torchrun():
            return _join_torchrun(main, args, device)
        count = check_devices(args.num_gpus, device)
        with _gpus_hidden_unless(device):
            detectron2_launch(
                run_main,
                count,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(main, args),
                timeout=TIMEOUT,
            )
    except LVTError as error:
        return report(error)
    except SystemExit as ended:  # the only process is this one
        return ended.code
    except KeyboardInterrupt:
        print("\nInterrupted; --resume goes on from the last checkpoint", file=sys.stderr)
        return INTERRUPTED
    except ProcessExitedException as ended:
        if ended.signal_name:
            print(
                f"Process {ended.error_index} was killed by {ended.signal_name}; SIGKILL is often "
                "the system's answer to a lack of memory: fewer workers or images per batch help",
                file=sys.stderr,
            )
        return ended.exit_code if ended.exit_code > 0 else 1
    return 0


@contextmanager
def _gpus_hidden_unless(device: str) -> Iterator[None]:
    """Detectron2's launch picks NCCL wherever a GPU is visible, even for a model on the CPU."""
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    hide = not is_gpu(device)
    if hide:
        os.environ[name] = ""
    try:
        yield
    finally:
        if hide and before is None:
            del os.environ[name]
        elif hide:
            os.environ[name] = before


def _join_torchrun(main: Callable, args: argparse.Namespace, device: str) -> int:
    """Connect this process with the others that torchrun started, and run in it."""
    rank, world, local_rank, local_world = (int(os.environ[name]) for name in _TORCHRUN[:4])
    if args.num_gpus not in (0, 1, local_world) or args.num_machines != 1:
        raise ConfigError(
            f"torchrun has started {local_world} processes here, {world} in all, which "
            f"--num-gpus {args.num_gpus} --num-machines {args.num_machines} contradicts; leave "
            "both options out under torchrun (--num-gpus 0 for the CPU)"
        )
    on_gpu = is_gpu(device)
    if on_gpu:
        check_devices(local_world, device)
        torch.cuda.set_device(local_rank)
    if world > 1:
        backend = "nccl" if on_gpu else "gloo"
        dist.init_process_group(backend, world_size=world, rank=rank, timeout=TIMEOUT)
        comm.create_local_process_group(local_world)
        comm.synchronize()
    try:
        run_main(main, args)
    except SystemExit as ended:
        return ended.code
    return 0


def run_main(main: Callable, args: argparse.Namespace) -> None:
    """Body of every process: ``main(args)``, with a user's error turned into an exit status."""
    try:
        main(args)
    except LVTError as error:
        status = report(error)
        if error.on_all_ranks and comm.get_world_size() > 1:
            comm.synchronize()  # who leaves first takes the others along before they have spoken
            dist.destroy_process_group()
        sys.exit(status)
    # A process that ends while others still talk, its threads running, is aborted now and then.
    comm.synchronize()
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def report(error: LVTError) -> int:
    """Print a user's error once and return the exit status that belongs to it."""
    if comm.is_main_process() or not error.on_all_ranks:
        rank = f"[process {comm.get_rank()}] " if comm.get_world_size() > 1 else ""
        print(f"\n{rank}{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return error.exit_status
