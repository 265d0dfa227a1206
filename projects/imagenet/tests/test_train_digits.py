"""Trainings on real images: handwritten digits, as README has them, scaled down."""

import importlib.util
import shutil
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
CONFIGS = PROJECT / "configs"


@pytest.fixture(scope="module")
def make_digits():
    pytest.importorskip("sklearn")
    spec = importlib.util.spec_from_file_location("make_digits", PROJECT / "make_digits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names(folder):
    return {path.name for path in folder.glob("*/*.png")}


def test_make_digits(make_digits, tmp_path, capsys):
    assert make_digits.main([str(tmp_path / "a"), "--size", "8"]) == 0
    assert make_digits.main([str(tmp_path / "b"), "--size", "8", "--validation"]) == 0
    assert make_digits.main([str(tmp_path / "c"), "--size", "4"]) == 2
    train, held_out = names(tmp_path / "a" / "train"), names(tmp_path / "a" / "val")
    assert len(train) + len(held_out) == 1797 and not train & held_out
    assert len(held_out) / 1797 == pytest.approx(0.2, abs=0.002)
    chosen = names(tmp_path / "b" / "train") | names(tmp_path / "b" / "val")
    assert chosen == train  # held-out images choose nothing


@pytest.mark.slow
def test_fine_tuning_on_other_digits_at_another_size(make_digits, train, tmp_path):
    """Digits 0 to 5 first, then 6 to 9, larger: ahead of a start from nothing."""
    from lvt_imagenet.records import read_rows

    make_digits.main([str(tmp_path / "all"), "--size", "48"])
    for part in ("train", "val"):
        for digit in range(10):
            target = tmp_path / ("first" if digit < 6 else "second") / part / str(digit)
            shutil.copytree(tmp_path / "all" / part / str(digit), target)

    def run(name, data, *words):
        output = tmp_path / name
        words = (data, "--workers", 0, "--device", "cpu", "--output", output, *words)
        assert train.main([str(word) for word in words]) == 0
        return [
            max(float(r["top1"]), float(r["ema_top1"])) for r in read_rows(output / "metrics.csv")
        ]

    digits = ("--config", CONFIGS / "digits.yaml", "--img-size", 32, "--epochs", 4)
    before = run("before", tmp_path / "first", *digits, "--warmup-epochs", 1)
    tune = (
        *("--config", CONFIGS / "finetune.yaml", "--epochs", 2, "--warmup-epochs", 0),
        *("--img-size", 48, "--batch-size", 32, "--hflip", 0, "--auto-augment", "none"),
        *("--reprob", 0, "--lr", 1e-3),
    )
    start = ("--init-checkpoint", tmp_path / "before" / "best.pth")
    tuned = run("tuned", tmp_path / "second", *tune, *start)
    anew = run("anew", tmp_path / "second", *tune)
    assert max(before) > 90 and max(tuned) > 95
    assert max(tuned) >= max(anew) and tuned[0] > anew[0]
