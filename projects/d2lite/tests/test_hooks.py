import logging
import time

import pytest
import torch
from detectron2.checkpoint import Checkpointer
from detectron2.engine import SimpleTrainer, hooks
from detectron2.engine.hooks import HookBase
from detectron2.solver import WarmupMultiStepLR
from detectron2.utils.events import EventWriter, get_event_storage
from fvcore.common.param_scheduler import ConstantParamScheduler, LinearParamScheduler
from torch import nn


class _Model(nn.Module):
    def __init__(self, sleep=0.0, norm=False):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2) if norm else nn.Identity()
        self.sleep = sleep

    def forward(self, x):
        time.sleep(self.sleep)
        return {"loss": self.norm(self.layer(x)).square().mean()}


def _loader():
    while True:
        yield torch.randn(4, 2)


@pytest.fixture
def make():
    def build(*registered, lr=0.1, **model):
        net = _Model(**model)
        trainer = SimpleTrainer(net, _loader(), torch.optim.SGD(net.parameters(), lr=lr))
        trainer.register_hooks(list(registered))
        return trainer

    return build


@pytest.fixture
def log(caplog):
    logger = logging.getLogger("detectron2")
    before, logger.propagate = logger.propagate, True
    with caplog.at_level(logging.INFO):
        yield caplog
    logger.propagate = before


def test_callback_hook(make):
    calls = []
    hook = hooks.CallbackHook(
        before_train=lambda t: calls.append("before_train"),
        after_train=lambda t: calls.append("after_train"),
        before_step=lambda t: calls.append(("before", t.iter)),
        after_step=lambda t: calls.append(("after", t.iter)),
    )
    make(hook, hooks.CallbackHook()).train(0, 2)
    steps = [(name, i) for i in range(2) for name in ("before", "after")]
    assert calls == ["before_train", *steps, "after_train"]
    assert not hasattr(hook, "_after_train"), "closures are let go"


def test_iteration_timer(make, log):
    trainer = make(hooks.IterationTimer(warmup_iter=3), sleep=0.01)
    trainer.train(10, 16)
    times = trainer.storage.history("time").values()
    assert [i for _, i in times] == [12, 13, 14, 15]
    assert all(0.01 <= seconds < 1 for seconds, _ in times)
    assert "Overall training speed: 4 iterations" in log.text
    assert "Total training time: 0:00:0" in log.text and "on hooks)" in log.text


class _Writer(EventWriter):
    def __init__(self):
        self.written, self.closed = [], False

    def write(self):
        assert not self.closed
        self.written.append(get_event_storage().iter)

    def close(self):
        self.closed = True


@pytest.mark.parametrize(
    ("period", "expected"), [(20, [6, 7]), (2, [1, 3, 5, 6, 7]), (1, [*range(8)])]
)
def test_periodic_writer(make, period, expected):
    writer = _Writer()
    make(hooks.PeriodicWriter([writer], period=period)).train(0, 7)
    assert writer.written == expected and writer.closed
    with pytest.raises(AssertionError):
        hooks.PeriodicWriter([object()])


def test_periodic_checkpointer(make, tmp_path):
    trainer = make()
    checkpointer = Checkpointer(trainer.model, str(tmp_path), trainer=trainer)
    trainer.register_hooks([hooks.PeriodicCheckpointer(checkpointer, period=3, max_to_keep=1)])
    trainer.train(0, 7)
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == [
        "model_0000005.pth",
        "model_final.pth",
    ]
    state = checkpointer.load(str(tmp_path / "model_0000005.pth"), checkpointables=[])
    assert state["iteration"] == 5 and state["trainer"]["iteration"] == 5


class _Scores(HookBase):
    """Stands for an EvalHook: puts one given score per evaluation."""

    def __init__(self, scores, period=1):
        self.scores, self.period = list(scores), period

    def after_step(self):
        if (self.trainer.iter + 1) % self.period == 0 and self.scores:
            self.trainer.storage.put_scalar("AP", self.scores.pop(0), smoothing_hint=False)


@pytest.mark.parametrize(
    ("mode", "scores", "best", "best_iter"),
    [
        ("max", [1.0, 3.0, 2.0, float("nan"), 3.0], 3.0, 1),
        ("min", [1.0, 3.0, 0.5, float("-inf"), 2.0], 0.5, 2),
        ("max", [float("nan"), 2.0], 2.0, 1),
    ],
)
def test_best_checkpointer(make, tmp_path, log, mode, scores, best, best_iter):
    trainer = make()
    checkpointer = Checkpointer(trainer.model, str(tmp_path))
    hook = hooks.BestCheckpointer(1, checkpointer, "AP", mode, file_prefix="best")
    trainer.register_hooks([_Scores(scores), hook])
    trainer.train(0, len(scores))
    assert hook.best_metric == best and hook.best_iter == best_iter
    assert checkpointer.load(str(tmp_path / "best.pth"))["iteration"] == best_iter
    assert [p.name for p in tmp_path.glob("*.pth")] == ["best.pth"]


def test_best_checkpointer_without_its_metric(make, tmp_path, log):
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path))
    make(hooks.BestCheckpointer(2, checkpointer, "bbox/AP")).train(0, 4)
    assert "bbox/AP does not seem to be computed" in log.text
    assert not list(tmp_path.iterdir())
    with pytest.raises(AssertionError, match="unknown"):
        hooks.BestCheckpointer(2, checkpointer, "bbox/AP", mode="median")


def test_lr_scheduler_of_fvcore(make):
    trainer = make(hooks.LRScheduler(scheduler=LinearParamScheduler(1, 0)), lr=2.0)
    trainer.train(0, 4)
    rates = [value for value, _ in trainer.storage.history("lr").values()]
    assert rates == pytest.approx([2.0, 1.5, 1.0, 0.5])
    state = trainer.state_dict()["hooks"]["LRScheduler"]
    assert state == {"base_lrs": [2.0], "last_epoch": 4}


def test_lr_scheduler_of_torch_and_of_the_trainer(make):
    trainer = make(hooks.LRScheduler())
    trainer.scheduler = WarmupMultiStepLR(trainer.optimizer, [2], warmup_iters=0)
    trainer.train(0, 4)
    rates = [value for value, _ in trainer.storage.history("lr").values()]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01])
    hook = hooks.LRScheduler(trainer.optimizer, trainer.scheduler)
    state = hook.state_dict()
    assert state["last_epoch"] == 4
    hook.load_state_dict({**state, "last_epoch": 1})
    assert trainer.scheduler.last_epoch == 1


def test_lr_scheduler_without_state():
    hook = hooks.LRScheduler(scheduler=ConstantParamScheduler(1.0))
    assert hook.state_dict() == {}
    hook.load_state_dict({"last_epoch": 3})


def test_representative_group():
    def groups(*sizes_and_rates):
        return torch.optim.SGD(
            [
                {"params": [nn.Parameter(torch.zeros(1)) for _ in range(n)], "lr": lr}
                for n, lr in sizes_and_rates
            ],
            lr=1.0,
        )

    best = hooks.LRScheduler.get_best_param_group_id
    assert best(groups((1, 0.1), (3, 0.2), (2, 0.3))) == 1
    assert best(groups((1, 0.1), (1, 0.2), (1, 0.2))) == 1


def test_eval_hook(make):
    calls = []

    def evaluate():
        calls.append(trainer.iter)
        return {"bbox": {"AP": 1.0 + len(calls)}, "n": torch.tensor(3)}

    trainer = make(hooks.EvalHook(2, evaluate))
    trainer.train(0, 6)
    assert calls == [1, 3, 6], "the last one comes after training"
    assert trainer.storage.latest()["bbox/AP"] == (4.0, 6)
    assert trainer.storage.smoothing_hints()["bbox/AP"] is False

    calls.clear()
    trainer = make(hooks.EvalHook(0, evaluate))
    trainer.train(0, 3)
    assert calls == [3]
    calls.clear()
    trainer = make(hooks.EvalHook(2, evaluate, eval_after_train=False))
    trainer.train(0, 5)
    assert calls == [1, 3]


def test_eval_hook_not_after_a_failure(make):
    calls = []

    class Fails(HookBase):
        def before_step(self):
            if self.trainer.iter == 1:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make(Fails(), hooks.EvalHook(0, lambda: calls.append(1))).train(0, 9)
    assert not calls


@pytest.mark.parametrize(
    ("result", "error"), [([1], AssertionError), ({"a": {"b": "high"}}, ValueError)]
)
def test_eval_hook_wants_numbers(make, result, error):
    with pytest.raises(error):
        make(hooks.EvalHook(1, lambda: result)).train(0, 2)
    make(hooks.EvalHook(1, lambda: None)).train(0, 2)  # other processes return nothing


def test_precise_bn(make, log):
    trainer = make(norm=True)
    batches = [torch.randn(8, 2) for _ in range(6)]
    trainer.register_hooks([hooks.PreciseBN(3, trainer.model, batches, num_iter=2)])
    trainer.train(0, 4)
    norm, layer = trainer.model.norm, trainer.model.layer
    # two updates (iterations 2 and 3) took two batches each of the same iterator
    seen = torch.stack([layer(x).detach() for x in batches[2:4]])
    assert torch.allclose(norm.running_mean, seen.mean(dim=(0, 1)), atol=1e-5)
    assert norm.momentum == 0.1
    assert "Running precise-BN for 2 iterations" in log.text


def test_precise_bn_without_bn(make, log):
    trainer = make()
    hook = hooks.PreciseBN(1, trainer.model, [], num_iter=2)
    hook.update_stats()
    trainer.register_hooks([hook])
    trainer.train(0, 2)
    assert "PreciseBN is disabled" in log.text


def _only_second(trainer):
    return trainer.iter == 1


def test_torch_profiler(make, tmp_path):
    cpu = [torch.profiler.ProfilerActivity.CPU]
    make(hooks.TorchProfiler(_only_second, str(tmp_path), activities=cpu)).train(0, 3)
    traces = list(tmp_path.glob("log/profiler-tensorboard-iter1/worker0*.pt.trace.json*"))
    assert len(traces) == 1
    hook = hooks.TorchProfiler(
        _only_second, str(tmp_path / "b"), activities=cpu, save_tensorboard=False
    )
    make(hook).train(0, 3)
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["profiler-trace-iter1.json"]


def test_memory_stats(make, monkeypatch, log):
    make(hooks.TorchMemoryStats(period=1)).train(0, 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("max_memory_reserved", "memory_reserved", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: 3 * 2**20)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 2**20)
    monkeypatch.setattr(torch.cuda, "memory_summary", lambda: "the summary")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    hook = hooks.TorchMemoryStats(period=2, max_runs=2)
    trainer = make(hook)
    trainer.train(0, 3)
    assert "iter: 1  max_reserved_mem: 3MB" in log.text and "allocated_mem: 1MB" in log.text
    assert log.text.count("the summary") == 1
