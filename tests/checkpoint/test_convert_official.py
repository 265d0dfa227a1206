"""The converter's command line."""

import hashlib
import importlib.util
from pathlib import Path

import pytest
import torch

from lvt_d2.checkpoint import convert_official, read_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("tool", ROOT / "tools/convert_official.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def official(tmp_path):
    """A classifier's file with averaged weights."""
    from lvt_d2.checkpoint.official import TABLES

    state = {}
    for i, name in enumerate(TABLES["classifier"]()):
        shape = (18, 2, 1, 1) if name.endswith(".attn.weight.weight") else (2, 1, 1)
        state[name] = torch.full(shape, float(i))
    content = {"state_dict": state, "state_dict_ema": {n: t + 1 for n, t in state.items()}}
    path = tmp_path / "lvt_imagenet.pth.tar"
    torch.save(content, path)
    return path


def test_result_and_table(tool, official, tmp_path, capsys):
    target = tmp_path / "lvt.pth"
    assert tool.main([str(official), str(target)]) == 0
    content = read_checkpoint(target)
    expected = convert_official(read_checkpoint(official))
    assert list(content["model"]) == list(expected.model)
    assert all(torch.equal(content["model"][n], t) for n, t in expected.model.items())
    origin = content["lvt_d2"]
    assert origin["kind"] == "classifier" and origin["weights"] == "state_dict"
    assert origin["source_sha256"] == hashlib.sha256(official.read_bytes()).hexdigest()
    text = capsys.readouterr().out
    for part in ("ImageNet classifier", "backbone.0", "backbone.stages.0", "class_blocks.1", "179"):
        assert part in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lvt.pth", "lvt_imagenet.pth.tar"]


def test_averaged_weights_and_list(tool, official, tmp_path, capsys):
    target = tmp_path / "lvt.pth"
    assert tool.main([str(official), str(target), "--ema", "--list"]) == 0
    content = read_checkpoint(target)
    assert content["lvt_d2"]["weights"] == "state_dict_ema"
    assert content["model"]["cls_token"].flatten()[0] == 1
    assert "post_network.0.attn.kv.weight" in capsys.readouterr().out


def test_overwriting_needs_force(tool, official, tmp_path, capsys):
    target = tmp_path / "lvt.pth"
    target.write_text("mine")
    assert tool.main([str(official), str(target)]) != 0
    assert "add --force" in capsys.readouterr().err and target.read_text() == "mine"
    assert tool.main([str(official), str(target), "--force"]) == 0
    assert read_checkpoint(target)["model"]
    assert tool.main([str(official), str(official), "--force"]) != 0
    assert "is SRC itself" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "message"),
    [("lvt.pkl", "reads as another format"), ("absent/lvt.pth", "does not exist"), (".", "exists")],
)
def test_bad_targets(tool, official, tmp_path, capsys, target, message):
    assert tool.main([str(official), str(tmp_path / target), "--force"]) != 0
    assert message in capsys.readouterr().err


def test_bad_sources(tool, tmp_path, capsys):
    assert tool.main([str(tmp_path / "absent"), str(tmp_path / "a.pth")]) != 0
    assert "does not exist" in capsys.readouterr().err
    torch.save({"conv.weight": torch.ones(1)}, tmp_path / "other.pth")
    assert tool.main([str(tmp_path / "other.pth"), str(tmp_path / "a.pth")]) != 0
    assert "no official LVT checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "a.pth").exists()


def test_failed_write_leaves_nothing(tool, official, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(tool.os, "fsync", fail)
    assert tool.main([str(official), str(tmp_path / "a.pth")]) != 0
    assert "disk full" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [official]
