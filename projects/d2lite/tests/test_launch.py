"""Two processes on gloo against one with the same global batch."""

import os
from datetime import timedelta

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DEFAULT_TIMEOUT, SimpleTrainer, create_ddp_model, launch
from detectron2.utils import comm
from torch import nn

BATCHES = torch.linspace(-1, 1, 3 * 4 * 2).view(3, 4, 2)  # 3 iterations of 4 samples


class _Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        nn.init.constant_(self.layer.weight, 0.5)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x):
        y = self.layer(x)
        return {"loss_a": y.square().mean(), "loss_b": (y - 1).abs().mean()}


def _train(folder):
    rank, world = comm.get_rank(), comm.get_world_size()
    share = len(BATCHES[0]) // world
    loader = [batch[rank * share : (rank + 1) * share] for batch in BATCHES]
    # device_ids are those of GPUs; the model is on the CPU
    model = create_ddp_model(_Net(), device_ids=None)
    trainer = SimpleTrainer(model, loader, torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.train(0, 3)
    checkpointer = DetectionCheckpointer(model, folder, trainer=trainer)
    checkpointer.save(f"world{world}")
    found = {
        "rank": rank,
        "local_rank": comm.get_local_rank(),
        "wrapped": isinstance(model, nn.parallel.DistributedDataParallel),
        "state": {k.removeprefix("module."): v for k, v in model.state_dict().items()},
        "history": {
            name: trainer.storage.history(name).values()
            for name in ("loss_a", "loss_b", "total_loss")
            if comm.is_main_process()
        },
    }
    torch.save(found, os.path.join(folder, f"{world}_{rank}.pt"))


def test_two_processes_equal_one(tmp_path):
    launch(_train, 1, args=(str(tmp_path),))
    launch(_train, 2, dist_url="auto", args=(str(tmp_path),), timeout=timedelta(minutes=2))
    alone = torch.load(tmp_path / "1_0.pt")
    both = [torch.load(tmp_path / f"2_{rank}.pt") for rank in range(2)]
    assert [(r["rank"], r["local_rank"], r["wrapped"]) for r in both] == [
        (0, 0, True),
        (1, 1, True),
    ]
    assert not alone["wrapped"]
    for result in both:
        for name, value in alone["state"].items():
            assert torch.allclose(value, result["state"][name], atol=1e-6)
    for name, history in alone["history"].items():
        expected = [pytest.approx(v, abs=1e-6) for v, _ in history]
        assert [v for v, _ in both[0]["history"][name]] == expected
    # one file for all, without the wrapper's prefix
    saved = torch.load(tmp_path / "world2.pth")["model"]
    assert set(saved) == {"layer.weight", "layer.bias"}


def _one_per_machine(folder):
    with open(os.path.join(folder, str(comm.get_rank())), "w") as file:
        file.write(f"{comm.get_world_size()} {comm.get_local_rank()} {comm.get_local_size()}")


def test_two_machines(tmp_path):
    """Both machines are this one: two launches that meet at one address."""
    import torch.multiprocessing as mp
    from detectron2.engine.launch import _find_free_port

    url = f"tcp://127.0.0.1:{_find_free_port()}"
    context = mp.get_context("spawn")
    machines = [
        context.Process(
            target=launch, args=(_one_per_machine, 1, 2, rank, url, (str(tmp_path),)), daemon=False
        )
        for rank in range(2)
    ]
    for machine in machines:
        machine.start()
    for machine in machines:
        machine.join(120)
        assert machine.exitcode == 0
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"0": "2 0 1", "1": "2 0 1"}


def _fails():
    raise ZeroDivisionError("in a worker")


def test_errors_reach_the_caller():
    with pytest.raises(Exception, match="in a worker"):
        launch(_fails, 2, dist_url="auto")
    with pytest.raises(ZeroDivisionError):
        launch(_fails, 1)


def test_auto_is_for_one_machine():
    with pytest.raises(AssertionError, match="multi-machine"):
        launch(_fails, 1, num_machines=2, dist_url="auto")
    assert timedelta(minutes=30) == DEFAULT_TIMEOUT
