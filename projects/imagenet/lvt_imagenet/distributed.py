"""The processes of one training, as torchrun starts them; a single process needs nothing."""

import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist

from lvt_d2.errors import ConfigError, LVTError

INTERRUPTED = 128 + signal.SIGINT  # what shells expect of a program ended by Ctrl-C
_TIMEOUT = timedelta(minutes=30)
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def rank() -> int:
    """Number of this process, 0 for the one that writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that writes files."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()


def total(values: torch.Tensor) -> torch.Tensor:
    """Sum over processes, in a new tensor."""
    values = values.clone()
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def agree(finding: bool, what: str) -> bool:
    """A finding that must be the same for all processes.

    Args:
        finding: of this process.
        what: was found, for the message.

    Raises:
        ConfigError: some found it and others did not.
    """
    findings = [finding]
    if world_size() > 1:
        findings = [None] * world_size()
        dist.all_gather_object(findings, finding)
    if len(set(findings)) > 1:
        error = ConfigError(
            f"{sum(findings)} of {len(findings)} processes say that {what}, the others do not; all "
            "machines must share the output folder"
        )
        error.on_all_ranks = True
        raise error
    return finding


def pick_device(name: str | None) -> torch.device:
    """This process's device.

    Args:
        name: "cpu", "cuda", or None for a GPU where there is one.

    Raises:
        ConfigError: there is no GPU for this process.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name is None and not found):
        return torch.device("cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if local_rank >= found:
        raise ConfigError(
            f"process {local_rank} of this machine has no GPU: PyTorch {torch.__version__} finds "
            f"{found} here. Start at most {found} processes a machine (torchrun --nproc-per-node), "
            "or train on the CPU with --device cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def connect(device: torch.device) -> None:
    """Join the other processes if torchrun started this one."""
    if all(name in os.environ for name in _TORCHRUN) and int(os.environ["WORLD_SIZE"]) > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)


def run(main: Callable[[], None], resume_hint: str = "") -> int:
    """Call ``main`` and return the exit status of the program.

    A user's error (`LVTError`) is printed as its text alone; every other exception propagates.

    Args:
        main: what to do.
        resume_hint: printed after Ctrl-C.
    """
    try:
        main()
        barrier()  # a process that leaves while others still talk takes them along
    except LVTError as error:
        _report(error)
        if error.on_all_ranks:
            barrier()
        return error.exit_status
    except KeyboardInterrupt:
        print(f"\nInterrupted{resume_hint}", file=sys.stderr)
        return INTERRUPTED
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


def _report(error: LVTError) -> None:
    number, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if number == 0 or not error.on_all_ranks:
        process = f"[process {number}] " if processes > 1 else ""
        print(f"\n{process}{type(error).__name__}: {error}", file=sys.stderr, flush=True)
