"""Several processes train as one does with the same images for an update."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lvt_imagenet.records import read_rows

from lvt_d2.checkpoint import read_checkpoint

TOOL = Path(__file__).parents[1] / "train.py"


def torchrun(processes, *words):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", processes]
    command += ["--master-port", 29400 + os.getpid() % 500, TOOL, *words]
    return subprocess.run(
        [str(word) for word in command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def numbers(rows):
    names = ("train_loss", "loss", "top1", "top5")
    return [[float(row[name]) for name in names] for row in rows]


@pytest.mark.slow
def test_two_processes_are_one_with_the_batch_of_both(run, quick, images, tmp_path):
    one = run(tmp_path / "one", "--batch-size", 8, "--ema")
    words = ("--output", tmp_path / "two", "--batch-size", 4, "--ema")
    done = torchrun(2, images, *quick, *words)
    assert done.returncode == 0, done.stderr
    two = read_rows(tmp_path / "two" / "metrics.csv")
    for a, b in zip(numbers(one), numbers(two), strict=True):
        assert a == pytest.approx(b, abs=1e-4)
    assert [row["unreadable"] for row in two] == ["0", "0"]
    first, second = (read_checkpoint(tmp_path / name / "last.pth") for name in ("one", "two"))
    for name, value in first["model"].items():
        torch.testing.assert_close(value, second["model"][name], rtol=0, atol=2e-3)


@pytest.mark.slow
def test_processes_accumulate_and_resume(run, quick, images, tmp_path):
    words = ("--batch-size", 2, "--grad-accum-steps", 2, "--output", tmp_path / "two")
    straight = run(tmp_path / "one", "--batch-size", 8)
    assert torchrun(2, images, *quick, *words, "--stop-after", 1).returncode == 0
    done = torchrun(2, images, *quick, *words, "--resume")
    assert done.returncode == 0, done.stderr
    two = read_rows(tmp_path / "two" / "metrics.csv")
    for a, b in zip(numbers(straight), numbers(two), strict=True):
        assert a == pytest.approx(b, abs=1e-4)


@pytest.mark.slow
def test_mistakes_end_all_processes(quick, tmp_path):
    done = torchrun(2, tmp_path / "none", *quick, "--output", tmp_path / "out")
    assert done.returncode == 1 and "does not exist" in done.stderr
