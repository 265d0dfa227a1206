"""A resumed training is the one that was never interrupted."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lvt_imagenet.store import Store

from lvt_d2.checkpoint import read_checkpoint
from lvt_d2.errors import CheckpointError

TOOL = Path(__file__).parents[1] / "train.py"
WORDS = ("--epochs", 4, "--ema", "--ema-decay", 0.9, "--mixup", 0.5, "--drop-path-rate", 0.2)
TIMES = ("seconds", "images_per_second")


def metrics(rows):
    return [{name: text for name, text in row.items() if name not in TIMES} for row in rows]


def assert_same_state(first, second):
    first, second = read_checkpoint(first / "last.pth"), read_checkpoint(second / "last.pth")
    for key in ("model", "ema"):
        assert all(torch.equal(value, second[key][name]) for name, value in first[key].items())
    moments = [state["optimizer"]["state"] for state in (first, second)]
    for name, state in moments[0].items():
        assert all(torch.equal(value, moments[1][name][key]) for key, value in state.items())
    assert first["progress"] == second["progress"] and first["store"] == second["store"]


@pytest.fixture(scope="module")
def straight(run, tmp_path_factory):
    output = tmp_path_factory.mktemp("straight")
    return output, run(output, *WORDS)


@pytest.mark.parametrize("words", [(), ("--workers", 1)], ids=["same", "other workers"])
def test_stopped_between_epochs(run, tmp_path, straight, words):
    folder, rows = straight
    first = run(tmp_path, *WORDS, "--stop-after", 1)
    assert metrics(first) == metrics(rows)[:1]
    assert metrics(run(tmp_path, *WORDS, *words, "--resume")) == metrics(rows)
    assert_same_state(folder, tmp_path)
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == sorted(
        p.name for p in folder.glob("*.pth")
    )


def test_killed_within_an_epoch(run, quick, images, tmp_path, straight):
    folder, rows = straight
    words = [str(word) for word in (images, *quick, *WORDS, "--output", tmp_path)]
    words += ["--checkpoint-updates", "2"]
    # as many threads as the other runs: sums depend on it in the last bit
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([sys.executable, TOOL, *words], env=environment)
    last, deadline = tmp_path / "last.pth", time.monotonic() + 240
    try:
        while not (last.exists() and read_checkpoint(last)["progress"]["epoch"] >= 1):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert metrics(run(tmp_path, *WORDS, "--resume")) == metrics(rows)
    assert_same_state(folder, tmp_path)


def test_stopped_at_every_checkpoint_of_an_epoch(run, tmp_path, straight, monkeypatch):
    """Updates and losses go on within the epoch, whatever the update."""

    class Stop(Exception):
        pass

    folder, rows = straight
    saved = Store.save

    def save_and_stop(store, state):
        saved(store, state)
        if state["progress"]["update"]:
            raise Stop

    monkeypatch.setattr(Store, "save", save_and_stop)
    words = (*WORDS, "--checkpoint-updates", 5, "--resume")
    for _ in range(4):
        with pytest.raises(Stop):
            run(tmp_path, *words)
        assert read_checkpoint(tmp_path / "last.pth")["progress"]["update"] == 5
    assert metrics(run(tmp_path, *words)) == metrics(rows)
    assert_same_state(folder, tmp_path)


def test_finished_training_resumes_to_nothing(run, tmp_path):
    rows = run(tmp_path, "--epochs", 1)
    assert run(tmp_path, "--epochs", 1, "--resume") == rows


def test_without_a_checkpoint_it_starts(run, tmp_path):
    assert len(run(tmp_path, "--epochs", 1, "--resume")) == 1


def refused(run, capsys, output, *words, told, **where):
    run(output, *words, "--resume", status=1, **where)
    error = capsys.readouterr().err
    assert told in error and "Traceback" not in error, error


def test_other_classes_and_models_are_refused(run, write, tmp_path, capsys):
    output, data = tmp_path / "out", tmp_path / "data"
    run(output, "--epochs", 1, "--stop-after", 1)
    write(data / "train", {"bird": 4, "cat": 4, "fish": 4})
    write(data / "val", {"bird": 1, "cat": 1})
    refused(run, capsys, output, data=data, told="was trained on 3 classes (bird, cat, dog)")
    words = ("--model-kwargs", "drop_rate=0")
    refused(run, capsys, output, *words, told="is of the model 'lvt_cls', another one")


def test_other_batches_within_an_epoch_are_refused(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Store, "save_epoch", lambda *_: None)
    run(tmp_path, "--epochs", 1, "--checkpoint-updates", 2)
    refused(run, capsys, tmp_path, "--batch-size", 2, told="was saved within an epoch of 1")


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_damaged_checkpoint_is_refused(run, tmp_path, capsys, content):
    (tmp_path / "last.pth").write_bytes(content)
    refused(run, capsys, tmp_path, told="last.pth")


def test_weights_alone_can_not_be_resumed(run, tmp_path, capsys):
    torch.save({"model": {"x": torch.zeros(1)}}, tmp_path / "last.pth")
    refused(run, capsys, tmp_path, told="is no checkpoint that train.py can resume from")


def save(store, epoch, metric):
    store.save_epoch({"progress": epoch, "x": torch.zeros(3)}, epoch, metric, {"epoch": epoch})


def test_best_epochs_are_kept(tmp_path):
    store = Store(tmp_path, keep=2)
    for epoch, metric in enumerate([50.0, 70.0, 60.0, 70.0, 10.0]):
        save(store, epoch, metric)
    assert sorted(p.name for p in tmp_path.glob("epoch-*")) == ["epoch-0001.pth", "epoch-0003.pth"]
    assert (store.best, store.best_epoch) == (70.0, 1)
    assert read_checkpoint(tmp_path / "best.pth")["epoch"] == 1
    assert read_checkpoint(store.last)["progress"] == 4

    again = Store(tmp_path, keep=2)
    (tmp_path / "epoch-0005.pth").write_bytes(b"made after the last state")
    again.load()
    save(again, 5, 90.0)
    assert sorted(p.name for p in tmp_path.glob("epoch-*")) == ["epoch-0001.pth", "epoch-0005.pth"]


def test_without_metrics_only_the_last_is_kept(tmp_path):
    store = Store(tmp_path, keep=2)
    save(store, 0, None)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pth"] and store.best is None


def test_failed_write_leaves_the_last_state(tmp_path, monkeypatch):
    store = Store(tmp_path, keep=1)
    save(store, 0, 1.0)
    before = store.last.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save(store, 1, 2.0)
    assert store.last.read_bytes() == before
