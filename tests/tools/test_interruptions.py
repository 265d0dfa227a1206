"""Trainings that are interrupted, killed and resumed equal those that were not."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lvt_d2.checkpoint import read_checkpoint
from lvt_d2.engine import Trainer
from tests.tools.test_lazyconfig_train_net import ROOT, _environment, _process, _run

HERE = Path(__file__).parent
TOY = HERE / "toy_resume_config.py"
TIMES = ("time", "data_time", "rank_data_time")  # of a machine, not of a training


def _rows(folder, until=None):
    """Lines of metrics.json without times; every number as it was written, to the last digit."""
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    kept = [{k: repr(v) for k, v in row.items() if k not in TIMES} for row in rows]
    return [row for row in kept if until is None or int(row["iteration"]) <= until]


def _train(folder, *options, config=TOY, stop=None):
    """Run, or until an iteration at which the process is stopped as if it had been killed."""

    class Killed(BaseException):
        pass

    step, after_train = Trainer.run_step, Trainer.after_train

    def die(self):
        if self.iter == stop:
            Trainer.after_train = lambda self: None  # a killed process tidies nothing up
            raise Killed
        step(self)

    Trainer.run_step = die
    try:
        done = _run(folder, "--num-gpus", "0", *options, config=config)
        assert done.returncode == 0, done.stderr
        return done
    except Killed:
        assert stop is not None
    finally:
        Trainer.run_step, Trainer.after_train = step, after_train


def _assert_equal(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and np.array_equal(
            one, other, equal_nan=one.is_floating_point()
        )
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            if key not in TIMES:
                _assert_equal(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            _assert_equal(a, b)
    else:
        assert one == other


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Folder of an uninterrupted training."""
    folder = tmp_path_factory.mktemp("straight")
    _train(folder, "train.seed=3")
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_equals_uninterrupted(straight, tmp_path, workers):
    workers = f"dataloader.train.num_workers={workers}"
    parts = tmp_path / "parts"
    _train(parts, "train.seed=3", workers, stop=8)
    for seed, stop in ((5, 9), (6, 21), (-1, 30)):  # 21 is behind an evaluation, 9 before nothing
        _train(parts, "--resume", f"train.seed={seed}", workers, stop=stop)
    done = _train(parts, "--resume", workers)
    assert _rows(parts) == _rows(straight)
    files = {p.name for p in straight.glob("*.pth")}
    assert files == {"model_0000035.pth", "model_0000038.pth", "model_final.pth", "model_best.pth"}
    assert {p.name for p in parts.glob("*.pth")} == files
    for name in files:  # weights, optimizer, averages, generators, place in the data, best metric
        _assert_equal(read_checkpoint(parts / name), read_checkpoint(straight / name))
    assert "can't tell where it is" not in done.stdout


def test_an_evaluation_that_was_killed_is_made_up_for(straight, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("lvt_d2.engine.training.evaluate", die)
        patch.setattr(Trainer, "after_train", lambda self: None)
        with pytest.raises(Killed):
            options = ("--num-gpus", "0", "train.seed=3", "train.checkpointer.period=7")
            _run(tmp_path, *options, config=TOY)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000006.pth"
    _train(tmp_path, "--resume", "train.checkpointer.period=7", stop=12)
    assert _rows(tmp_path) == _rows(straight, 9)


def test_an_evaluation_is_not_repeated(tmp_path):
    _train(tmp_path, "train.checkpointer.period=7", stop=10)
    trainer = read_checkpoint(tmp_path / "model_0000006.pth")["trainer"]
    assert trainer["hooks"]["Evaluation"]["evaluated_iter"] == 6
    done = _train(tmp_path, "--resume", "train.checkpointer.period=7", stop=11)
    assert done is None
    assert [row["iteration"] for row in _rows(tmp_path) if "'sums/error'" in str(row)] == ["6"]


def test_best_weights_are_those_that_were_evaluated(straight, tmp_path):
    errors = {
        int(row["iteration"]): float(row["sums/error"])
        for row in _rows(straight)
        if "sums/error" in row
    }
    best = read_checkpoint(straight / "model_best.pth")
    assert best["best"] == {"sums/error": min(errors.values())}
    assert errors[best["iteration"]] == min(errors.values())
    for name, averaged, expected in (
        ("model_best.pth", False, min(errors.values())),
        ("model_final.pth", True, errors[40]),
        ("model_final.pth", False, None),
    ):
        given = (f"train.init_checkpoint={straight / name}", f"train.ema.enabled={averaged}")
        _train(tmp_path, "--eval-only", *given)
        found = json.loads((tmp_path / "results.json").read_text())["sums"]["error"]
        assert found == expected or (expected is None and found not in errors.values())


def test_a_run_that_never_saved_starts_anew(tmp_path):
    _train(tmp_path, "train.seed=3", "train.checkpointer.period=30", stop=20)
    _train(tmp_path, "--resume", "train.seed=3", "train.checkpointer.period=30")
    iterations = [row["iteration"] for row in _rows(tmp_path)]
    assert len(set(iterations)) == len(iterations) and iterations[0] == "4"


@pytest.mark.slow
def test_two_processes_resume_together(tmp_path):
    options = ("--num-gpus", "2", "train.device=cpu", "train.seed=3")
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    done = _process(straight, *options, config=TOY)
    assert done.returncode == 0, done.stderr
    done = _process(parts, *options, "+train.stop_at=0.425", config=HERE / "toy_stop_config.py")
    assert done.returncode != 0
    assert (parts / "last_checkpoint").read_text() == "model_0000014.pth"
    done = _process(parts, "--resume", *options, "train.seed=9", config=TOY)
    assert done.returncode == 0, done.stderr
    name = "model_final.pth"
    ours, theirs = read_checkpoint(parts / name), read_checkpoint(straight / name)
    assert len(ours["trainer"]["hooks"]["Checkpoints"]["processes"]) == 2
    _assert_equal(ours, theirs)


@pytest.mark.slow
def test_killed_30_times(tmp_path):
    killed = tmp_path / "killed"
    command = [sys.executable, str(HERE / "toy_killer.py"), str(killed), "30", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    last = report[-1]["last_checkpoint"]
    assert len(report) == 30 and last > 20
    assert len({entry["last_checkpoint"] for entry in report}) > 5
    assert _rows(killed, last) == _rows(tmp_path / "straight", last)


@pytest.mark.slow
def test_a_real_model_resumes_to_the_last_bit(tmp_path):
    make = [sys.executable, str(ROOT / "datasets/make_shapes.py"), "--output", str(tmp_path)]
    subprocess.run([*make, "--train", "12", "--val", "2"], check=True, env=_environment())
    config = ROOT / "configs/quick/shapes_panoptic_lvt.py"
    options = [
        "--num-gpus", "0", "train.max_iter=8", "train.log_period=1", "train.eval_period=4",
        "train.checkpointer.period=3", "dataloader.train.total_batch_size=2", "train.seed=1",
        "train.best_checkpointer.val_metric=panoptic_seg/PQ", "train.ema.enabled=True",
    ]  # fmt: skip
    env = {"DETECTRON2_DATASETS": str(tmp_path)}
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    done = _process(straight, *options, "dataloader.train.num_workers=2", config=config, **env)
    assert done.returncode == 0, done.stderr
    stop = HERE / "toy_stop_config.py"
    stopped = _process(
        parts, *options, "+train.stop_at=0.625", config=stop, STOP_CONFIG=str(config), **env
    )
    assert stopped.returncode != 0
    assert (parts / "last_checkpoint").read_text() == "model_0000002.pth"
    done = _process(parts, "--resume", *options, "train.seed=8", config=config, **env)
    assert done.returncode == 0, done.stderr
    assert _rows(parts) == _rows(straight)
    for name in ("model_final.pth", "model_0000005.pth"):
        _assert_equal(read_checkpoint(parts / name), read_checkpoint(straight / name))
