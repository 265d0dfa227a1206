"""The benchmark's arithmetic, names, files; tiny sizes."""

import json

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog

from benchmarks import backbones, pipelines, scaling
from benchmarks.cases import CPU_FLOORS, GPU_FLOORS, SUITES, Floor, build, parse
from benchmarks.measure import (
    Contender,
    Row,
    exponent,
    interleaved,
    peak_memory,
    peak_of_events,
    quartiles,
    summarize,
)
from benchmarks.plain_panoptic_mapper import PlainPanopticMapper
from lvt_d2.data import PanopticMapper, ResizeKeepRatio
from lvt_d2.data.builtin import coco_sample_paths
from lvt_d2.data.coco_panoptic import load_coco_panoptic
from lvt_d2.errors import ConfigError
from tools import benchmark

CPU = torch.device("cpu")


def row(name: str, median: float, peak: int | None = None) -> Row:
    return Row(name, median, (median, median), 1.0, 1.0, (1.0, 1.0), peak, None)


def test_ratios_are_of_medians_and_their_spread_of_rounds():
    times = {"textbook": [4.0, 6.0, 8.0], "ours": [2.0, 2.0, 4.0]}
    base, ours = summarize(times, {"textbook": 100, "ours": 25}, "textbook", images=8)
    assert (base.ratio, base.ratio_quartiles, base.peak_ratio) == (1.0, (1.0, 1.0), 1.0)
    assert (ours.median, ours.quartiles) == (2.0, (2.0, 3.0))
    assert ours.ratio == 3.0  # 6 / 2
    assert ours.ratio_quartiles == (2.0, 2.5)  # of 2, 3, 2
    assert (ours.per_second, ours.peak_ratio) == (4.0, 0.25)


def test_peaks_that_are_not_known():
    rows = summarize({"a": [1.0], "b": [2.0]}, {"a": 5, "b": None}, "a", images=1)
    assert rows[1].peak_ratio is None
    rows = summarize({"a": [1.0], "b": [2.0]}, {"a": None, "b": 5}, "a", images=1)
    assert rows[1].peak_ratio is None
    assert Floor("memory", 0.4, "b", "a").found(rows) is None


def test_quartiles_and_exponent():
    assert quartiles([3.0]) == (3.0, 3.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 4.0)
    assert exponent([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)
    assert exponent([1, 10], [5, 5]) == pytest.approx(0)


def test_peak_of_events():
    changes = [(3, -30), (1, 50), (2, 30), (4, 10)]  # time, bytes; in no order
    events = [{"name": "[memory]", "ts": ts, "args": {"Bytes": size}} for ts, size in changes]
    assert peak_of_events([*events, {"name": "aten::add", "ts": 0}]) == 80
    assert peak_of_events([]) == 0


def test_peak_memory_counts_what_lives_at_once():
    def run():
        a = torch.zeros(1 << 20)
        a = a + 1  # two at once
        return a * 2

    assert peak_memory(Contender(run), CPU) == pytest.approx(8 << 20, rel=0.01)


def test_contenders_take_turns():
    calls = []
    contenders = {
        name: Contender(lambda name=name: calls.append(name), lambda: calls.append("-"))
        for name in "ab"
    }
    times = interleaved(contenders, seconds=1e-9, rounds=(3, 9), device=CPU)
    assert [len(found) for found in times.values()] == [3, 3]
    order = "".join(calls).replace("-", " ").split()
    firsts = [run[0] for run in order]
    assert firsts == ["a", "a", "b", "b", "a", "b", "b", "a", "a", "b"]
    assert min(min(found) for found in times.values()) > 0


def test_floors():
    rows = [row("textbook", 3.0, 100), row("eager", 1.5, 30)]
    time, memory = Floor("time", 2.0, "eager"), Floor("memory", 0.25, "eager")
    assert time.found(rows) == 2.0 and time.met(2.0) and not time.met(1.9)
    assert memory.found(rows) == 0.3 and not memory.met(0.3) and memory.met(0.2)
    assert Floor("time", 2.0, "triton").found(rows) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("infer-8x224", ("infer", (8, 224, 224), torch.float32, set())),
        ("train-2x800x1088", ("train", (2, 800, 1088), torch.float32, set())),
        ("infer-1x64x96-bf16-mixed", ("infer", (1, 64, 96), torch.bfloat16, {"mixed"})),
        ("infer-1x64-compiled-peers", ("infer", (1, 64, 64), torch.float32, {"compiled", "peers"})),
    ],
)
def test_names(name, expected):
    assert parse(name) == expected


def test_every_case_of_a_suite_has_a_name_that_is_understood():
    for name in {*SUITES["full"], *SUITES["gpu"], *CPU_FLOORS, *GPU_FLOORS}:
        if name not in benchmark.WHOLE:
            parse(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("infer-224", "no such case"),
        ("infer-1x224-int8", "no such case"),
        ("infer-1x16", "32 pixels or more"),
        ("infer-1x64-graph", "--device cuda"),
        ("train-1x64-compiled", "for inference"),
    ],
)
def test_names_that_make_no_case(name, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        build(name, CPU, tmp_path)


def test_exactness():
    found = backbones.exactness(CPU, sizes=((1, 33, 64),))
    assert {"textbook, rounding, fp32", "eager, rounding, fp32"} <= set(found)
    for name, difference in found.items():
        bound = 1e-4 if "gradients" in name else 2e-5
        assert difference <= (1e-12 if "fp64" in name else bound), name


def test_mappers_on_drawn_images(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nothing"))
    contenders, images = pipelines.mappers(tmp_path)
    assert images == 8
    assert list(contenders)[-1] == "lvt_d2"
    assert all(contender.run() is None for contender in contenders.values())


@pytest.mark.parametrize("resize_masks", [True, False])
def test_the_plain_mapper_gives_our_labels(coco_sample, resize_masks):
    """Pillow rounds in its own way: pixels at outlines differ, nothing else does."""
    meta = MetadataCatalog.get("coco_sample_panoptic").as_dict()
    sample = load_coco_panoptic(*coco_sample_paths(str(coco_sample.parent)).values(), meta)[0]
    plain = PlainPanopticMapper((640, 640), resize_masks=resize_masks)
    ours = PanopticMapper(True, augmentations=plain_to_ours(), image_format="RGB")
    results = []
    for mapper in (plain, ours):
        np.random.seed(0)
        results.append(mapper(sample))
    found, expected = results
    assert found["image"].shape == expected["image"].shape
    assert (found["sem_seg"] == expected["sem_seg"]).float().mean() > 0.98
    found, expected = found["instances"], expected["instances"]
    assert found.gt_classes.tolist() == expected.gt_classes.tolist()
    torch.testing.assert_close(found.gt_boxes.tensor, expected.gt_boxes.tensor, rtol=0, atol=1)
    masks = found.gt_masks.tensor, expected.gt_masks.tensor
    assert (masks[0] == masks[1]).float().mean() > 0.99


def plain_to_ours() -> list:
    return [ResizeKeepRatio((640, 640), 1333), T.RandomFlip(prob=0.5, horizontal=True)]


def test_files(tmp_path, capsys):
    command = "--case infer-1x32 train-1x32 --no-exactness --seconds 0.01 --rounds 2 2"
    assert benchmark.main([*command.split(), "--output", str(tmp_path)]) == 0
    text = (tmp_path / "benchmark.md").read_text()
    assert text.strip() in capsys.readouterr().out.strip()
    assert "allocator and thread variables" in text
    record = json.loads((tmp_path / "benchmark.json").read_text())
    assert set(record) == {"setting", "exactness", "cases", "growth"}
    infer, train = record["cases"]
    assert (infer["case"], infer["baseline"]) == ("infer-1x32", "textbook")
    assert [r["name"] for r in infer["rows"]] == ["textbook", *backbones.paths(CPU)]
    assert "eager, recomputing" in [r["name"] for r in train["rows"]]
    assert set(infer["rows"][0]) == {
        "name", "median", "quartiles", "per_second", "ratio", "ratio_quartiles", "peak",
        "peak_ratio",
    }  # fmt: skip
    assert all(r["peak"] > 0 and r["median"] > 0 for r in infer["rows"] + train["rows"])


def test_peers_take_the_size_of_the_case(tmp_path):
    case = build("infer-1x64x96-peers", CPU, tmp_path)
    assert set(backbones.PEERS) < set(case.contenders)
    for name in backbones.PEERS:
        case.contenders[name].run()


def test_verdicts_stand_under_the_table(tmp_path):
    case = build("infer-1x32", CPU, tmp_path)
    case.floors = [Floor("time", 2.0, "eager"), Floor("memory", 0.1, "eager")]
    rows = [row("textbook", 3.0, 100), row("eager", 1.5, 30)]
    text = benchmark.as_markdown(case, rows)
    assert "textbook / eager, time, at least 2: 2.00, met" in text
    assert "eager / textbook, peak memory, at most 0.1: 0.30, NOT met" in text
    assert [f["met"] for f in benchmark.as_record(case, rows)["floors"]] == [True, False]


def test_growth_and_its_plot(tmp_path):
    growth = scaling.measure(CPU, sides=(32, 64), batches=(1, 2), seconds=0.01)
    assert json.loads(json.dumps(growth)) == growth
    assert growth["sides"]["x"] == [32, 64]
    assert "multiply-adds per pixel" in scaling.as_markdown(growth)
    scaling.plot(growth, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes()[:4] == b"\x89PNG"


def test_mistakes_of_the_command_line(capsys):
    assert benchmark.main(["--case", "nothing"]) != 0
    assert "no such case" in capsys.readouterr().err
    for options in (["--rounds", "5", "2"], ["--threads", "0"], ["--seconds", "0"]):
        with pytest.raises(SystemExit):
            benchmark.main(options)
