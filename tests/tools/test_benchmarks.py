"""The benchmarks run, compare numbers, and write their figures."""

import importlib
import json
import logging
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

ROOT = Path(__file__).parents[2]


@pytest.fixture
def load():
    """Imports a tool under its own name, as processes that it starts do; sets are forgotten."""
    before, path = set(DatasetCatalog.list()), sys.path[:]
    sys.path.insert(0, str(ROOT / "tools"))
    names = []

    def load_tool(name):
        names.append(name)
        return importlib.import_module(name)

    yield load_tool
    sys.path[:] = path
    for name in names:
        sys.modules.pop(name, None)
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_semantic(load, tmp_path, capsys, monkeypatch):
    tool = load("benchmark_semantic")
    monkeypatch.setattr(tool, "peak_memory", lambda name, *_: 1.5 if name == tool.OURS else None)
    path = tmp_path / "figures.json"
    size = ["--size", "40x50", "--classes", "6"]
    args = ["--images", "3", "--rounds", "2", *size, "--json", str(path)]
    assert tool.main(args) == 0
    printed = capsys.readouterr().out
    assert "3 probability maps of 6x40x50 on cpu" in printed and "not measured" in printed
    figures = json.loads(path.read_text())
    assert len(figures["rows"]) == 5 and figures["setting"]["shape"] == "6x40x50"
    ours = figures["rows"][0]
    assert ours["our_speed_up"] == 1 and ours["peak_mb"] == 1.5
    for row in figures["rows"]:
        assert row["ms_per_image"] > 0 and f"{row['miou']:.9f}" in printed


@pytest.mark.slow
def test_peak_memory_of_a_process(load, tmp_path):
    tool = load("benchmark_semantic")
    args = Namespace(classes=60, size=(256, 256), seed=0, device="cpu")
    names = (tool.OURS, "NumPy's argmax, np.bincount")
    ours, with_numpy = (tool.peak_memory(name, str(tmp_path), args) for name in names)
    assert ours < 4 and with_numpy > 60 * 256 * 256 * 4 / 1e6


def test_average_precision(load, tmp_path, capsys):
    logging.getLogger("detectron2").setLevel(logging.ERROR)
    tool = load("benchmark_ap")
    path = tmp_path / "figures.json"
    args = ["--images", "2", "--rounds", "2", "--detections", "8", "--size", "64", "48"]
    assert tool.main([*args, "--json", str(path)]) == 0
    assert "largest difference of any AP, in percent points: 0.0e+00" in capsys.readouterr().out
    rows = json.loads(path.read_text())["rows"]
    assert [row["evaluator"] for row in rows] == [tool.OURS, tool.OTHER]
    assert rows[0]["box_ap"] == rows[1]["box_ap"] > 0
    for other, difference in ((1.5, 0.5), (float("nan"), float("inf"))):
        results = {tool.OURS: {"bbox": {"AP": 1.0}}, tool.OTHER: {"bbox": {"AP": other}}}
        assert tool.largest_difference(results) == difference


def test_panoptic_quality(load, capsys):
    tool = load("benchmark_pq")
    tool.main(["--images", "2", "--size", "64", "48"])
    assert "2 maps of 64x48" in capsys.readouterr().out
