"""Communication, in one process and in two real ones."""

import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm


def test_one_process():
    assert comm.get_world_size() == comm.get_local_size() == 1
    assert comm.get_rank() == comm.get_local_rank() == 0
    assert comm.is_main_process() and comm.synchronize() is None
    assert comm.all_gather("x") == ["x"] and comm.gather({"a": 1}) == [{"a": 1}]
    losses = {"a": torch.tensor(1.0)}
    assert comm.reduce_dict(losses) is losses
    np.random.seed(3)
    seed = comm.shared_random_seed()
    np.random.seed(3)
    assert seed == np.random.randint(2**31)
    with pytest.raises(AssertionError, match="Local process group is not created"):
        comm.get_local_process_group()


def _worker(rank, init_file, queue_folder, per_machine):
    dist.init_process_group("gloo", f"file://{init_file}", rank=rank, world_size=2)
    with pytest.raises(AssertionError, match="Local process group"):
        comm.get_local_rank()
    comm.create_local_process_group(per_machine)
    comm.create_local_process_group(per_machine)  # a second call is nothing
    np.random.seed(rank)
    everything = {
        "rank": comm.get_rank(),
        "size": comm.get_world_size(),
        "main": comm.is_main_process(),
        "local": (comm.get_local_rank(), comm.get_local_size()),
        "local_group": dist.get_world_size(comm.get_local_process_group()),
        "all": comm.all_gather({"rank": rank, "text": "x" * (rank + 1) * 1000}),
        "gather": comm.gather((rank, set())),
        "gather1": comm.gather(rank, dst=1),
        "in_local": comm.all_gather(rank, group=comm.get_local_process_group()),
        "seed": comm.shared_random_seed(),
    }
    values = {"b": torch.tensor(float(rank)), "a": torch.tensor(10.0 * (rank + 1))}
    everything["mean"] = comm.reduce_dict(values)
    everything["sum"] = comm.reduce_dict(values, average=False)
    comm.synchronize()
    torch.save(everything, f"{queue_folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("per_machine", [2, 1])
def test_two_processes(tmp_path, per_machine):
    arguments = (str(tmp_path / "init"), str(tmp_path), per_machine)
    torch.multiprocessing.start_processes(_worker, arguments, nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{k}.pt", weights_only=False) for k in range(2))
    assert (first["rank"], second["rank"]) == (0, 1) and first["size"] == 2
    assert first["main"] and not second["main"]
    assert second["local"] == ((1, 2) if per_machine == 2 else (0, 1))
    assert first["local_group"] == per_machine
    assert first["all"] == second["all"] and [x["rank"] for x in first["all"]] == [0, 1]
    assert first["gather"] == [(0, set()), (1, set())] and second["gather"] == []
    assert first["gather1"] == [] and second["gather1"] == [0, 1]
    assert second["in_local"] == ([0, 1] if per_machine == 2 else [1])
    np.random.seed(0)
    assert first["seed"] == second["seed"] == np.random.randint(2**31)
    assert first["mean"] == {"a": 15.0, "b": 0.5} and first["sum"] == {"a": 30.0, "b": 1.0}
    assert not os.path.exists(tmp_path / "2.pt")


def test_machines_must_divide_the_world(monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    with pytest.raises(AssertionError, match="(3, 2)"):
        comm.create_local_process_group(2)
