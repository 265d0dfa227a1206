import contextlib
import gc
import logging
import threading
import weakref

import numpy as np
import pytest
import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    HookBase,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
    hooks,
)
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    JSONWriter,
    TensorboardXWriter,
    has_event_storage,
)
from fvcore.common.param_scheduler import LinearParamScheduler
from torch import nn


class _Losses(nn.Module):
    """Two losses of a linear layer, whose gradients are known."""

    def __init__(self, as_tensor=False):
        super().__init__()
        self.layer = nn.Linear(2, 1, bias=False)
        nn.init.constant_(self.layer.weight, 1.0)
        self.as_tensor = as_tensor

    def forward(self, x):
        y = self.layer(x).mean()
        return y if self.as_tensor else {"loss_a": y, "loss_b": 2 * y}


def _loader(value=1.0):
    while True:
        yield torch.full((3, 2), value)


def _trainer(kind=SimpleTrainer, as_tensor=False, loader=None, **options):
    model = _Losses(as_tensor)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return kind(model, loader or _loader(), optimizer, **options)


class _Recorder(HookBase):
    def __init__(self):
        self.calls = []

    def before_train(self):
        assert has_event_storage()
        self.calls.append(("before_train", self.trainer.iter))

    def after_train(self):
        self.calls.append(("after_train", self.trainer.iter, self.trainer.storage.iter))

    def before_step(self):
        assert self.trainer.storage.iter == self.trainer.iter
        self.calls.append(("before_step", self.trainer.iter))

    def after_backward(self):
        self.calls.append(("after_backward", self.trainer.iter))

    def after_step(self):
        self.calls.append(("after_step", self.trainer.iter))


def test_order_of_hooks():
    trainer, recorder = _trainer(), _Recorder()
    trainer.register_hooks([None, recorder])
    trainer.train(3, 5)
    steps = [(name, i) for i in (3, 4) for name in ("before_step", "after_backward", "after_step")]
    assert recorder.calls == [("before_train", 3), *steps, ("after_train", 5, 5)]
    assert (trainer.start_iter, trainer.max_iter, trainer.iter) == (3, 5, 5)
    assert not has_event_storage()


def test_after_train_runs_on_errors(caplog):
    class Fails(HookBase):
        def after_step(self):
            raise ZeroDivisionError("on purpose")

    trainer, recorder = _trainer(), _Recorder()
    trainer.register_hooks([Fails(), recorder])
    with pytest.raises(ZeroDivisionError):
        trainer.train(0, 5)
    assert recorder.calls[-1] == ("after_train", 0, 0)  # not max_iter: it did not finish
    assert not has_event_storage()


def test_hooks_do_not_keep_the_trainer_alive():
    trainer = _trainer()
    trainer.register_hooks([_Recorder(), hooks.IterationTimer()])
    trainer.train(0, 1)
    reference = weakref.ref(trainer)
    gc.disable()
    try:
        del trainer
        assert reference() is None
    finally:
        gc.enable()
    with pytest.raises(AssertionError):
        _trainer().register_hooks([object()])
    with pytest.raises(NotImplementedError):
        TrainerBase().run_step()


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("zero_first", [False, True])
def test_steps_and_metrics(as_tensor, zero_first):
    trainer = _trainer(as_tensor=as_tensor, zero_grad_before_forward=zero_first)
    trainer.model.eval()
    with pytest.raises(AssertionError, match="eval mode"):
        trainer.train(0, 1)
    trainer.model.train()
    trainer.train(0, 2)
    gradient = 1.0 if as_tensor else 3.0
    weight = trainer.model.layer.weight
    assert weight.flatten().tolist() == pytest.approx([1 - 0.2 * gradient] * 2)
    history = trainer.storage.history("total_loss").values()
    second = 2 * (1 - 0.1 * gradient)
    factor = 1 if as_tensor else 3
    assert [value for value, _ in history] == pytest.approx([2 * factor, second * factor])
    assert [i for _, i in history] == [0, 1]
    names = set(trainer.storage.latest())
    expected = {"total_loss", "data_time", "rank_data_time"}
    assert names == (expected if as_tensor else expected | {"loss_a", "loss_b"})


def test_gather_metric_period():
    trainer = _trainer(gather_metric_period=3)
    trainer.train(0, 7)
    assert [i for _, i in trainer.storage.history("total_loss").values()] == [2, 5]


def test_async_metrics_come_from_another_thread_with_their_iteration():
    seen = []

    class Spy(SimpleTrainer):
        def _write_metrics(self, loss_dict, data_time, prefix="", iter=None):
            seen.append((threading.current_thread() is threading.main_thread(), iter))
            super()._write_metrics(loss_dict, data_time, prefix, iter)

    trainer = _trainer(Spy, async_write_metrics=True)
    trainer.train(0, 4)
    assert seen == [(False, i) for i in range(4)]
    assert [i for _, i in trainer.storage.history("loss_a").values()] == [0, 1, 2, 3]


def test_nan_is_an_error():
    trainer = _trainer(loader=_loader(float("nan")))
    with pytest.raises(FloatingPointError, match="iteration=0"):
        trainer.train(0, 1)
    assert trainer.model.layer.weight.flatten().tolist() == [1.0, 1.0]


def test_write_metrics_prefix():
    trainer = _trainer()
    with EventStorage() as storage:
        SimpleTrainer.write_metrics({"x": torch.tensor(1.0)}, 0.5, 7, prefix="my_")
        SimpleTrainer.write_metrics({"x": torch.tensor(1.0), "y": torch.tensor(2)}, 0.5, 8)
    assert storage.latest()["my_total_loss"] == (1.0, 7)
    assert storage.latest()["total_loss"] == (3.0, 8)
    assert storage.latest()["data_time"] == (0.5, 8)
    assert trainer.gather_metric_period == 1


def test_reset_data_loader():
    trainer = _trainer()
    trainer.train(0, 1)
    trainer.reset_data_loader(lambda: _loader(0.0))
    trainer.train(1, 2)
    assert trainer.storage.latest()["total_loss"][0] == 0


class _Stateful(HookBase):
    def __init__(self, value):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def test_state_of_trainer_and_hooks(caplog):
    trainer = _trainer()
    trainer.optimizer.param_groups[0]["lr"] = 0.5
    trainer.register_hooks([_Stateful(1), _Stateful(2), HookBase()])
    trainer.train(0, 3)
    state = trainer.state_dict()
    assert state["iteration"] == 3
    assert state["hooks"] == {"_Stateful": {"value": 1}}

    other = _trainer()
    other.register_hooks([_Stateful(9)])
    other.load_state_dict(state)
    assert other.iter == 3
    assert other.optimizer.param_groups[0]["lr"] == 0.5
    assert other._hooks[0].value == 1
    _trainer().load_state_dict(state)  # the hook is missing: a warning only


def test_resume_equals_straight_through(tmp_path):
    def build(folder):
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        model = _Losses()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        trainer = SimpleTrainer(model, _loader(), optimizer)
        checkpointer = DetectionCheckpointer(model, str(folder), trainer=trainer)
        schedule = LinearParamScheduler(1, 0)
        trainer.register_hooks(
            [
                hooks.LRScheduler(scheduler=schedule),
                hooks.PeriodicCheckpointer(checkpointer, period=4),
            ]
        )
        return trainer, checkpointer

    def losses(trainer):
        return [value for value, _ in trainer.storage.history("total_loss").values()]

    def rates(trainer):
        return [value for value, _ in trainer.storage.history("lr").values()]

    straight, _ = build(tmp_path / "a")
    straight.train(0, 8)

    class Stop(HookBase):
        def after_step(self):
            if self.trainer.iter == 5:
                raise InterruptedError

    interrupted, _ = build(tmp_path / "b")
    interrupted.register_hooks([Stop()])
    with pytest.raises(InterruptedError):
        interrupted.train(0, 8)

    resumed, checkpointer = build(tmp_path / "b")
    checkpointer.resume_or_load("", resume=True)
    assert resumed.iter == 3
    resumed.train(resumed.iter + 1, 8)
    assert losses(resumed) == losses(straight)[4:]
    assert rates(resumed) == pytest.approx(rates(straight)[4:])


class _FakeScaler:
    def __init__(self):
        self.calls = []

    def scale(self, loss):
        self.calls.append("scale")
        return loss

    def step(self, optimizer):
        self.calls.append("step")
        optimizer.step()

    def update(self):
        self.calls.append("update")

    def get_scale(self):
        return 8.0

    def state_dict(self):
        return {"scale": 8.0}

    def load_state_dict(self, state):
        self.calls.append(state)


def test_amp_trainer_needs_cuda(monkeypatch):
    scaler = _FakeScaler()
    trainer = _trainer(
        AMPTrainer, grad_scaler=scaler, precision=torch.bfloat16, log_grad_scaler=True
    )
    assert trainer.precision is torch.bfloat16
    if not torch.cuda.is_available():
        with pytest.raises(AssertionError, match="CUDA is required"):
            trainer.train(0, 1)
    with pytest.raises(AssertionError, match="single-process multi-device"):
        AMPTrainer(nn.DataParallel(_Losses()), _loader(), None)
    # autocast of a device that isn't there is a warning, so the rest can run anywhere
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: contextlib.nullcontext())
    trainer.train(0, 1)
    assert scaler.calls == ["scale", "step", "update"]
    assert trainer.storage.latest()["[metric]grad_scaler"] == (8.0, 0)
    state = trainer.state_dict()
    assert state["grad_scaler"] == {"scale": 8.0} and "optimizer" in state
    trainer.load_state_dict(state)
    assert scaler.calls[-1] == {"scale": 8.0}


def test_create_ddp_model_alone():
    model = nn.Linear(1, 1)
    assert create_ddp_model(model, broadcast_buffers=False, fp16_compression=True) is model


def test_argument_parser():
    parser = default_argument_parser()
    args = parser.parse_args([])
    assert (args.config_file, args.resume, args.eval_only, args.num_gpus) == ("", False, False, 1)
    assert (args.num_machines, args.machine_rank, args.opts) == (1, 0, [])
    assert args.dist_url.startswith("tcp://127.0.0.1:")
    assert 2**15 + 2**14 <= int(args.dist_url.rpartition(":")[2]) < 2**16
    args = parser.parse_args(
        "--config-file f --resume --eval-only --num-gpus 3 --num-machines 2 --machine-rank 1 "
        "--dist-url url A.B 1 --c".split()
    )
    assert args.config_file == "f" and args.resume and args.eval_only and args.num_gpus == 3
    assert (args.num_machines, args.machine_rank, args.dist_url) == (2, 1, "url")
    assert args.opts == ["A.B", "1", "--c"]
    assert default_argument_parser("my epilog").epilog == "my epilog"


def _lazy(folder, **train):
    from omegaconf import OmegaConf

    return OmegaConf.create({"train": {"output_dir": str(folder), **train}})


def test_default_setup_of_lazy_config(tmp_path):
    import random

    args = default_argument_parser().parse_args([])
    draws = []
    for name in ("a", "b"):
        cfg = _lazy(tmp_path / name, seed=3, cudnn_benchmark=True)
        default_setup(cfg, args)
        draws.append((torch.rand(1).item(), np.random.rand(), random.random()))
        assert torch.backends.cudnn.benchmark
        assert "seed: 3" in (tmp_path / name / "config.yaml").read_text()
        assert "Command line arguments" in (tmp_path / name / "log.txt").read_text()
    assert draws[0] == draws[1]
    default_setup(_lazy(tmp_path / "c"), args)
    assert not torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    args.eval_only = True
    default_setup(_lazy(tmp_path / "c"), args)
    assert torch.backends.cudnn.benchmark, "left alone for evaluation"
    torch.backends.cudnn.benchmark = False


def test_default_setup_of_yacs_config(tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.SEED = str(tmp_path), 1
    file = tmp_path / "mine.yaml"
    file.write_text("SEED: 1\n")
    args = default_argument_parser().parse_args(["--config-file", str(file)])
    default_setup(cfg, args)
    first = torch.rand(1)
    default_setup(cfg, args)
    assert torch.equal(first, torch.rand(1))
    again = get_cfg()
    again.merge_from_file(str(tmp_path / "config.yaml"))
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())


def test_default_writers(tmp_path):
    writers = default_writers(str(tmp_path / "new"), 10)
    assert [type(w) for w in writers] == [CommonMetricPrinter, JSONWriter, TensorboardXWriter]
    assert (tmp_path / "new").is_dir()


class _Yacs(DefaultTrainer):
    """A trainer whose parts come from here, not from the config."""

    events = []

    @classmethod
    def build_model(cls, cfg):
        return _Losses()

    @classmethod
    def build_train_loader(cls, cfg):
        return _loader()

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return [torch.ones(1, 2)] * 3

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return _Count()


class _Count(DatasetEvaluator):
    def reset(self):
        self.seen = 0

    def process(self, inputs, outputs):
        self.seen += 1

    def evaluate(self):
        return {"task": {"count": self.seen}}


def _yacs_config(folder):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(folder)
    cfg.MODEL.WEIGHTS = ""
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD = 6, 2, 4
    cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.STEPS = 2, (5,)
    cfg.DATASETS.TEST = ("some_set",)
    return cfg


def test_default_trainer(tmp_path):
    cfg = _yacs_config(tmp_path)
    trainer = _Yacs(cfg)
    trainer.resume_or_load(resume=False)
    assert isinstance(trainer._trainer, SimpleTrainer)
    assert isinstance(trainer.optimizer, torch.optim.SGD)
    kinds = [type(hook).__name__ for hook in trainer._hooks]
    assert kinds == [
        "IterationTimer",
        "LRScheduler",
        "PeriodicCheckpointer",
        "EvalHook",
        "PeriodicWriter",
    ]
    assert trainer.train() is None
    assert (tmp_path / "model_final.pth").exists() and (tmp_path / "model_0000003.pth").exists()
    assert trainer.storage.latest()["task/count"] == (3, 6)

    again = _Yacs(cfg)
    again.resume_or_load(resume=True)
    assert again.start_iter == 6
    assert torch.equal(again.model.layer.weight, trainer.model.layer.weight)
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    again = _Yacs(cfg)
    again.resume_or_load(resume=True)
    assert again.start_iter == 4
    again.train()
    assert torch.equal(again.model.layer.weight, trainer.model.layer.weight)


def test_default_trainer_expected_results(tmp_path):
    cfg = _yacs_config(tmp_path)
    cfg.TEST.EXPECTED_RESULTS = [["task", "count", 3, 0.1]]
    assert _Yacs(cfg).train() == {"task": {"count": 3}}
    cfg.TEST.EXPECTED_RESULTS = [["task", "count", 4, 0.1]]
    with pytest.raises(SystemExit):
        _Yacs(cfg).train()


def test_default_trainer_test(tmp_path, caplog):
    cfg = _yacs_config(tmp_path)
    model = _Losses()
    assert _Yacs.test(cfg, model) == {"task": {"count": 3}}
    assert _Yacs.test(cfg, model, _Count()) == {"task": {"count": 3}}
    cfg.DATASETS.TEST = ("a", "b")
    assert list(_Yacs.test(cfg, model)) == ["a", "b"]
    with pytest.raises(AssertionError):
        _Yacs.test(cfg, model, [_Count()])

    class NoEvaluator(_Yacs):
        build_evaluator = DefaultTrainer.build_evaluator

    assert NoEvaluator.test(cfg, model) == {"a": {}, "b": {}}


def test_auto_scale_workers():
    cfg = get_cfg()
    s = cfg.SOLVER
    assert DefaultTrainer.auto_scale_workers(cfg, 4) is cfg
    s.REFERENCE_WORLD_SIZE = 8
    assert DefaultTrainer.auto_scale_workers(cfg, 8) is cfg
    s.IMS_PER_BATCH, s.BASE_LR, s.STEPS, s.MAX_ITER = 16, 0.1, (3000, 4000), 5000
    s.WARMUP_ITERS, s.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD = 1000, 500, 100
    cfg.freeze()
    scaled = DefaultTrainer.auto_scale_workers(cfg, 16)
    t = scaled.SOLVER
    assert scaled.is_frozen() and cfg.SOLVER.IMS_PER_BATCH == 16
    assert (t.IMS_PER_BATCH, t.BASE_LR, t.STEPS, t.MAX_ITER) == (32, 0.2, (1500, 2000), 2500)
    assert (t.WARMUP_ITERS, t.CHECKPOINT_PERIOD, scaled.TEST.EVAL_PERIOD) == (500, 250, 50)
    assert t.REFERENCE_WORLD_SIZE == 16


def test_metrics_errors_are_logged(caplog):
    logger = logging.getLogger("detectron2")
    before, logger.propagate = logger.propagate, True
    with pytest.raises(FloatingPointError):
        _trainer(loader=_loader(float("inf"))).train(0, 1)
    logger.propagate = before
    assert "Exception in writing metrics" in caplog.text
    assert "Exception during training" in caplog.text
