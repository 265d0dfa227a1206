import contextlib
import io
import json
import logging
import time

import torch
from detectron2.engine import SimpleTrainer, hooks
from detectron2.utils.events import EventStorage
from torch import nn

from lvt_d2.engine import ProgressBar, writer_hooks

LOGGER = logging.getLogger("lvt_d2")


@contextlib.contextmanager
def _console():
    """Standard output and error in one buffer; handlers of the console and of a file."""
    screen, file = io.StringIO(), io.StringIO()
    handlers = [logging.StreamHandler(screen), logging.StreamHandler(file)]
    before = LOGGER.level
    LOGGER.setLevel(logging.INFO)
    for handler in handlers:
        LOGGER.addHandler(handler)
    # No fixture: pytest gives these streams back between a fixture and its test.
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
        yield screen, file
    for handler in handlers:
        LOGGER.removeHandler(handler)
    LOGGER.setLevel(before)


def _run(bar, count, start=0, between=lambda i: None):
    with EventStorage(start) as storage:
        for i in range(start, count):
            storage.iter = i
            storage.put_scalars(total_loss=3.0, loss_cls=1.0, loss_mask=2.0, time=0.5)
            storage.put_scalar("lr", 1e-3, smoothing_hint=False)
            bar.write()
            between(i)
        storage.iter = count
        bar.write()
        bar.close()


def test_lines_without_a_terminal():
    with _console() as (screen, file):
        _run(ProgressBar(10, log_period=4, terminal=False), 10)
    lines = screen.getvalue().splitlines()
    assert len(lines) == 3, "at 4, 8 and the last"
    assert lines[0].startswith(
        "iter 4/10 (40%)  total_loss 3  loss_cls 1  loss_mask 2  lr 0.001  2 it/s  left 0:00:03"
    )
    assert "iter 10/10 (100%)" in lines[2] and "left 0:00:00" in lines[2]
    assert screen.getvalue() == file.getvalue()


def test_bar_on_a_terminal():
    with _console() as (screen, file):
        _run(ProgressBar(10, log_period=4, terminal=True), 10, start=4)
    text = screen.getvalue()
    assert "10/10" in text and "total_loss=3" in text and "cls=1" in text and "lr=0.001" in text
    assert "iter 8/10" not in text, "the console has the bar instead"
    assert "iter 8/10 (80%)" in file.getvalue(), "the file has the lines"


def test_bar_gives_way_to_log_lines():
    with _console() as (screen, file):
        bar = ProgressBar(3, log_period=100, terminal=True)
        _run(bar, 3, between=lambda i: LOGGER.info("evaluating"))
        LOGGER.info("afterwards")
        assert not any(handler.filters for handler in LOGGER.handlers)
    for text in screen.getvalue().split("evaluating")[:-1]:
        assert text.endswith(("\r", "\n")), "the bar's line was cleared"
    assert file.getvalue().count("evaluating") == 3
    assert screen.getvalue().endswith("afterwards\n")


def test_bar_is_cheap():
    bar = ProgressBar(10**6, log_period=10**6, terminal=True)
    with _console(), EventStorage() as storage:
        storage.put_scalars(total_loss=1.0)
        bar.write()
        start = time.perf_counter()
        for i in range(1, 500):
            storage.iter = i
            bar.write()
        assert (time.perf_counter() - start) / 500 < 1e-3
        bar.close()


def test_works_without_timer_losses_or_rate():
    with _console() as (screen, _), EventStorage() as storage:
        bar = ProgressBar(5, log_period=1, terminal=False)
        bar.write()
        storage.iter = 1
        bar.write()
        bar.close()
    assert screen.getvalue().count("it/s") == 2


def test_writer_hooks(tmp_path):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return {"loss": self.weight.sum()}

    model = Model()
    trainer = SimpleTrainer(model, [0] * 7, torch.optim.SGD(model.parameters(), lr=0.1))
    folder = tmp_path / "new"
    trainer.register_hooks([hooks.IterationTimer(), *writer_hooks(str(folder), 7, 3)])
    with _console() as (screen, _):
        trainer.train(0, 7)
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [2, 5, 6]
    assert list(folder.glob("events.out.tfevents*"))
    assert screen.getvalue().count("total_loss") == 3
