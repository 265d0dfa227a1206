"""tools/analyze_model.py: the published figures, tables, files, and mistakes."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PANOPTIC = str(ROOT / "configs/panoptic_lvt.py")
SEGFORMER = str(ROOT / "configs/segformer_lvt.py")
SEMANTIC_FPN = str(ROOT / "configs/semantic_fpn_lvt.py")


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("analyze_model", ROOT / "tools/analyze_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def analyzed(tool, tmp_path, *args):
    path = tmp_path / "analysis.json"
    assert tool.main([*args, "--json", str(path)]) == 0
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("config", "parameters", "layers", "products", "total"),
    [
        (SEGFORMER, 3_870_586, 9.58, 1.05, 10.6),
        (PANOPTIC, 5_349_770, 42.8, 13.55, 56.4),
    ],
)
def test_published_figures(tool, tmp_path, config, parameters, layers, products, total):
    (model,) = analyzed(tool, tmp_path, "--config-file", config, "--no-fvcore")["models"]
    counts = model["modules"][""]
    assert counts["parameters"] == parameters
    digits = len(str(layers).partition(".")[2])
    assert round(counts["layers"] / 1e9, digits) == layers
    assert round(counts["products"] / 1e9, 2) == products
    assert round(counts["published"] / 1e9, 1) == total
    assert counts["published"] == counts["layers"] + counts["products"]
    assert counts["fvcore"] is None


def test_backbone_and_semantic_fpn(tool, tmp_path):
    (backbone,) = analyzed(
        tool, tmp_path, "--config-file", PANOPTIC, "--part", "model.backbone.bottom_up",
        "--size", "224x224", "--no-fvcore",
    )["models"]  # fmt: skip
    assert backbone["modules"][""]["parameters"] == 3_429_092
    (semantic,) = analyzed(tool, tmp_path, "--config-file", SEMANTIC_FPN, "--no-fvcore")["models"]
    modules = semantic["modules"]
    assert semantic["size"] == semantic["padded"] == [512, 512]
    assert modules["backbone.bottom_up"]["parameters"] == 3_429_092
    parts = modules["backbone"]["published"] + modules["sem_seg_head"]["published"]
    assert modules[""]["published"] == parts


def test_tables_and_sizes(tool, tmp_path, capsys):
    args = ["--config-file", PANOPTIC, "--size", "64x96", "100x64", "model.roi_heads.num_classes=3"]
    markdown = tmp_path / "tables.md"
    result = analyzed(tool, tmp_path, *args, "--markdown", str(markdown), "--depth", "1")
    printed = capsys.readouterr().out
    assert markdown.read_text().strip() == printed.strip()
    assert [m["size"] for m in result["models"]] == [[64, 96], [100, 64]]
    assert result["models"][1]["padded"] == [128, 64]
    assert "100x64 (height x width), padded to 128x64" in printed
    assert printed.count("| **all** ") == 2 and "| roi_heads " in printed
    assert "| roi_heads.box_head" not in printed
    assert all(rule.partition(":")[0] in printed for rule in result["rules"].values())
    modules = result["models"][0]["modules"]
    assert modules["roi_heads.box_predictor"]["parameters"] == 161 * (4 + 4 * 3)
    row = next(line for line in printed.splitlines() if line.startswith("| **all**"))
    assert f"{modules['']['parameters']:,}" in row
    assert f"{modules['']['published'] / 1e9:.3f}" in row
    assert f"{modules['']['fvcore'] / 1e9:.3f}" in row


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--size", "512"], "--size 512 is no size; expected HEIGHTxWIDTH"),
        (["--size", "0x64"], "--size 0x64 is no size"),
        (["--part", "model.neck"], "describes no module under 'model.neck'"),
        (["--part", "model.roi_heads.box_head.input_shape"], "is a ShapeSpec; only modules"),
        (["model.nothing=1"], "no key 'model.nothing'"),
        (["--part", "model.sem_seg_head"], "can't be analyzed (TypeError"),
        (["--size", "16x16", "--part", "model.backbone.bottom_up"], "LVT needs at least 32"),
    ],
)
def test_mistakes(tool, capsys, args, message):
    assert tool.main(["--config-file", PANOPTIC, "--no-fvcore", *args]) == 2
    captured = capsys.readouterr()
    assert message in captured.err + captured.out
