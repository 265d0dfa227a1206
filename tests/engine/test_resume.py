"""States of hooks: what is kept over a restart, piece by piece."""

import logging
import os
import random
import sys

import numpy as np
import pytest
import torch
from detectron2.engine import hooks
from detectron2.utils.events import EventStorage
from torch import nn

from lvt_d2.checkpoint import LVTCheckpointer, WeightsCheckpointer
from lvt_d2.engine import Checkpoints, Evaluation, EventHistory, Trainer, evaluate
from lvt_d2.randomness import get_random_states, random_states_kept, seeded, set_random_states


class _Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, batch):
        return {"loss": (self.weight * torch.rand(2)).sum() + random.random() + np.random.rand()}


class _Loader:
    def __init__(self):
        self.taken = 0

    def __iter__(self):
        while True:
            self.taken += 1
            yield self.taken

    def state_dict(self):
        return {"taken": self.taken}

    def load_state_dict(self, state):
        self.taken = state["taken"]


def _draw():
    return random.random(), np.random.rand(), np.random.randn(), torch.rand(1).item()


def _setup(folder, scores=(), loader=None, period=2, max_to_keep=None, more=()):
    model = _Model()
    loader = _Loader() if loader is None else loader
    trainer = Trainer(model, loader, torch.optim.SGD(model.parameters(), lr=0.1))
    checkpointer = LVTCheckpointer(model, str(folder), trainer=trainer)
    checkpoints = Checkpoints(checkpointer, period, max_to_keep)
    scores = iter(scores)
    evaluation = Evaluation(
        3 if scores else 0,
        lambda: {"task": {"score": next(scores, 0.0)}},
        WeightsCheckpointer(model, str(folder)),
        "task/score",
        afterwards=checkpoints.save_again,
    )
    trainer.register_hooks([EventHistory(), checkpoints, evaluation, *more])
    return trainer, checkpointer, checkpoints, evaluation


def test_random_states(tmp_path):
    np.random.randn()  # leaves a second number for later
    states = get_random_states()
    torch.save(states, tmp_path / "a")
    expected = _draw()
    set_random_states(torch.load(tmp_path / "a", weights_only=True))
    assert _draw() == expected
    set_random_states(states)
    with random_states_kept():
        _draw()
    assert _draw() == expected
    with seeded(3, 0, 5):
        first = _draw()
    with seeded(3, 0, 6):
        assert set(_draw()).isdisjoint(first)
    with seeded(3, 0, 5):
        assert _draw() == first


def test_loop_goes_on_where_it_was(tmp_path):
    straight, *_ = _setup(tmp_path / "a", scores=[1.0, 3.0])
    before = get_random_states()
    straight.train(0, 9)
    set_random_states(before)
    first, *_ = _setup(tmp_path / "b", scores=[1.0, 3.0])
    first.train(0, 6)
    resumed, checkpointer, _, evaluation = _setup(tmp_path / "b", scores=[3.0])
    checkpointer.resume_or_load("", resume=True)
    assert resumed.data_loader.taken == 6
    resumed.train(resumed.iter + 1, 9)
    ours, theirs = (t.storage.history("total_loss").values() for t in (resumed, straight))
    assert ours == theirs and len(ours) == 9
    assert resumed.storage.latest()["task/score"][1] == 9
    assert torch.equal(resumed.model.weight, straight.model.weight)


def test_best_metric_is_remembered(tmp_path):
    trainer, *_, evaluation = _setup(tmp_path, scores=[5.0, 4.0, 3.0])
    trainer.train(0, 9)
    assert (evaluation.best_metric, evaluation.best_iter) == (5.0, 2)
    resumed, checkpointer, _, evaluation = _setup(tmp_path, scores=[4.5, 6.0])
    checkpointer.load(str(tmp_path / "model_0000003.pth"))
    resumed.train(4, 9)
    assert (evaluation.best_metric, evaluation.best_iter) == (6.0, 9)
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["best"] == {"task/score": 6.0}


@pytest.mark.parametrize("mode", ["max", "min"])
def test_best_is_what_detectron2s_hook_finds(tmp_path, mode):
    scores = [2.0, 5.0, float("nan"), 1.0, 5.0, 7.0, 0.5]
    found = []
    for ours in (True, False):
        model, saver = _Model(), WeightsCheckpointer(_Model(), str(tmp_path))
        trainer = Trainer(model, _Loader(), torch.optim.SGD(model.parameters(), lr=0.1))
        values = iter(scores)

        def measure(values=values):
            return {"task": {"score": next(values)}}

        if ours:
            best = Evaluation(2, measure, saver, "task/score", mode)
            trainer.register_hooks([best])
        else:
            best = hooks.BestCheckpointer(2, saver, "task/score", mode)
            trainer.register_hooks([hooks.EvalHook(2, measure), best])
        trainer.train(0, 14)
        found.append((best.best_metric, trainer.storage.history("task/score").values()))
    assert found[0] == found[1] or np.isnan(scores[2]) and found[0][0] == found[1][0]
    assert [i for _, i in found[0][1]] == [i for _, i in found[1][1]]


def test_unknown_metric_is_named(tmp_path, caplog):
    trainer, *_, evaluation = _setup(tmp_path, scores=[1.0])
    evaluation._metric = "task/scroe"
    with caplog.at_level(logging.WARNING):
        trainer.train(0, 3)
    assert "val_metric is 'task/scroe'" in caplog.text and "it gives task/score" in caplog.text
    assert not (tmp_path / "model_best.pth").exists()


def test_no_evaluation_after_an_error(tmp_path):
    class Broken(_Loader):
        def __iter__(self):
            yield 1
            raise OSError("gone")

    calls = []
    trainer, *_, evaluation = _setup(tmp_path, scores=[1.0], loader=Broken())
    evaluation._evaluate = lambda: calls.append(1) or {}
    with pytest.raises(OSError, match="gone"):
        trainer.train(0, 2)
    assert not calls


def test_kept_files_are_remembered(tmp_path):
    trainer, *_ = _setup(tmp_path, max_to_keep=2)
    trainer.train(0, 7)
    names = sorted(p.name for p in tmp_path.glob("*.pth"))
    assert names == ["model_0000003.pth", "model_0000005.pth", "model_best.pth", "model_final.pth"]
    resumed, checkpointer, checkpoints, _ = _setup(tmp_path, max_to_keep=2)
    checkpointer.resume_or_load("", resume=True)
    resumed.train(7, 11)
    names = sorted(p.name for p in tmp_path.glob("model_00*.pth"))
    assert names == ["model_0000007.pth", "model_0000009.pth"]


def test_files_that_a_killed_run_did_not_delete(tmp_path):
    trainer, *_ = _setup(tmp_path, max_to_keep=4)
    trainer.train(0, 8)
    resumed, checkpointer, checkpoints, _ = _setup(tmp_path / ".", max_to_keep=2)
    checkpointer.load(str(tmp_path / "model_0000007.pth"))
    assert [os.path.basename(p) for p in checkpoints.recent_checkpoints] == [
        "model_0000005.pth", "model_0000007.pth",
    ]  # fmt: skip
    assert not (tmp_path / "model_0000001.pth").exists()


def test_history_is_bounded_and_smooth():
    history = EventHistory(window=30)
    trainer, *_ = _setup("", more=[history])
    with EventStorage() as trainer.storage:
        for trainer.storage.iter in range(50):
            trainer.storage.put_scalar("loss", trainer.storage.iter**2)
            trainer.storage.put_scalar("lr", 0.5, smoothing_hint=False)
        state = history.state_dict()
        expected = trainer.storage.latest_with_smoothing_hint(20)
    assert len(state["loss"]["values"]) == 30
    with EventStorage(50) as trainer.storage:
        history.load_state_dict(state)
        history.before_train()
        assert trainer.storage.latest_with_smoothing_hint(20) == expected
        assert trainer.storage.history("loss").values()[-1] == (49.0**2, 49)
        assert trainer.storage.smoothing_hints() == {"loss": True, "lr": False}


def test_loaders_without_a_state_are_warned_of(tmp_path, caplog):
    trainer, *_ = _setup(tmp_path, loader=[0] * 9)
    trainer.train(0, 2)
    resumed, checkpointer, *_ = _setup(tmp_path, loader=[0] * 9)
    checkpointer.resume_or_load("", resume=True)
    assert "(list) can't tell where it is" in caplog.text


def test_another_number_of_processes(tmp_path, monkeypatch, caplog):
    trainer, *_ = _setup(tmp_path)
    trainer.train(0, 2)
    resumed, checkpointer, *_ = _setup(tmp_path)
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda: 1)
    checkpointer.resume_or_load("", resume=True)
    assert "saved by 1 processes and is resumed by 2" in caplog.text
    assert resumed.data_loader.taken == 2


def test_evaluation_leaves_the_generators_alone(tmp_path, monkeypatch):
    module = sys.modules["lvt_d2.engine.evaluate"]
    monkeypatch.setattr(module, "_results", lambda *_: {"a": {"b": sum(_draw())}})
    states = get_random_states()
    evaluate(nn.Identity(), {}, str(tmp_path))
    after = _draw()
    set_random_states(states)
    assert _draw() == after
