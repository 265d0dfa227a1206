"""What a training tells: rows, a bar, and other places to log to."""

import logging
import sys
import time
import types

import pytest
from lvt_imagenet import distributed
from lvt_imagenet.records import COLUMNS, Progress, Records, read_rows


def write(folder, epochs, done=0, **options):
    records = Records(folder, options.pop("tensorboard", False), None, {}, done)
    for epoch in epochs:
        records.write({"epoch": epoch, "train_loss": 1.5, "top1": 50 + epoch})
    records.close()
    return read_rows(folder / "metrics.csv")


def test_rows_of_epochs_that_are_done_again_are_dropped(tmp_path):
    assert [row["epoch"] for row in write(tmp_path, range(4))] == ["0", "1", "2", "3"]
    rows = write(tmp_path, [2], done=2)
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert tuple(rows[0]) == COLUMNS and rows[0]["ema_top1"] == ""
    assert [row["epoch"] for row in write(tmp_path, [0])] == ["0"]


def test_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, range(3), tensorboard=True)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.value for event in events.Scalars("top1")] == [50, 51, 52]


class FakeRun:
    def __init__(self, **options):
        self.options, self.rows = options, []

    def log(self, row, step):
        self.rows.append((step, row))

    def finish(self):
        self.rows.append("finished")


def test_weights_and_biases(tmp_path, monkeypatch):
    runs = []

    def init(**options):
        runs.append(FakeRun(**options))
        return runs[-1]

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    for done in (0, 1):
        records = Records(tmp_path, False, "project", {"lr": 1}, done)
        records.write({"epoch": done, "top1": 50})
        records.close()
    assert runs[0].rows == [(0, {"top1": 50}), "finished"]
    assert runs[0].options["config"] == {"lr": 1} and runs[0].options["project"] == "project"
    assert runs[0].options["id"] == runs[1].options["id"]


def progress(visible=True, pause=0.0):
    with Progress(0, 2, 5, 0, 2, visible) as bar:
        for update in range(1, 6):
            time.sleep(pause)
            bar.step(update, {"train_loss": 0.12345} if bar.is_due(update) else None)


def test_lines_of_the_log_where_there_is_no_terminal(caplog, capsys):
    with caplog.at_level(logging.INFO):
        progress()
        progress(visible=False)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"epoch 1/2  update {i}/5  train_loss 0.1235" for i in (2, 4, 5)]
    assert capsys.readouterr().err == ""


def test_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress(pause=0.11)  # tqdm draws ten times a second
    error = capsys.readouterr().err
    assert "epoch 1/2" in error and "4/5" in error and "train_loss=0.1235" in error


def test_ctrl_c_has_its_status(capsys):
    def interrupted():
        raise KeyboardInterrupt

    assert distributed.run(interrupted, "; go on") == 130
    assert capsys.readouterr().err == "\nInterrupted; go on\n"


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        distributed.run(lambda: 1 / 0)
