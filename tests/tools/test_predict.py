import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def _load_tool():
    spec = importlib.util.spec_from_file_location("predict", ROOT / "tools/predict.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (60, 90)), ("b.jpg", (64, 48))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)
    (folder / "notes.txt").touch()
    return folder


def _weights(config, folder):
    torch.manual_seed(0)
    model = instantiate(LazyConfig.load(str(ROOT / config)).model)
    path = folder / f"{Path(config).stem}.pth"
    torch.save({"model": model.state_dict()}, path)
    return str(path)


def _predict(config, checkpoint, *inputs, output, opts=()):
    arguments = ["--config-file", str(ROOT / config), "--checkpoint", checkpoint, "--device", "cpu"]
    arguments += ["--input", *map(str, inputs), "--output", str(output), "--threshold", "0.1"]
    return _load_tool().main([*arguments, "--opts", *opts])


def test_panoptic(images, tmp_path):
    config = "configs/quick/shapes_panoptic_lvt.py"
    assert _predict(config, _weights(config, tmp_path), images, output=tmp_path / "out") == 0
    found = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [Path(entry["file_name"]).name for entry in found] == ["a.png", "b.jpg"]
    for name, size in (("a.png", (90, 60)), ("b.png", (48, 64))):
        assert Image.open(tmp_path / "out" / name).size == size
        assert Image.open(tmp_path / "out/panoptic" / name).size == size
    for entry in found:
        for segment in entry["segments"]:
            assert segment["area"] > 0 and isinstance(segment["category"], str)
        for instance in entry["instances"]:
            assert instance["score"] >= 0.1 and len(instance["box"]) == 4
    ids = np.array(Image.open(tmp_path / "out/panoptic/a.png")).astype(int) @ [1, 256, 65536]
    areas = {s["id"]: s["area"] for s in found[0]["segments"]}
    assert all((ids == number).sum() == area for number, area in areas.items())


def test_semantic(images, tmp_path):
    config = "configs/quick/shapes_segformer_lvt.py"
    weights = _weights(config, tmp_path)
    assert _predict(config, weights, images / "a.png", output=tmp_path / "out") == 0
    (entry,) = json.loads((tmp_path / "out/predictions.json").read_text())
    assert sum(label["area"] for label in entry["labels"]) == 60 * 90
    labels = np.array(Image.open(tmp_path / "out/semantic/a.png"))
    for label in entry["labels"]:
        assert (labels == label["category_id"]).sum() == label["area"]


def test_mistakes(images, tmp_path, capsys):
    config = "configs/quick/shapes_panoptic_lvt.py"
    weights = _weights(config, tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "a.png").write_bytes((images / "a.png").read_bytes())
    for inputs, opts, status, text in (
        ([images / "c.png"], [], 1, "c.png does not exist"),
        ([empty], [], 1, "has no images"),
        ([images, tmp_path / "a.png"], [], 1, "would both be written as a.png"),
        ([images], ["model.typo=1"], 2, "model.typo"),
    ):
        assert _predict(config, weights, *inputs, output=tmp_path / "o", opts=opts) == status
        assert text in capsys.readouterr().err
