"""The validation tool on files of all origins."""

import json
import shutil
import sys

import numpy as np
import pytest
import timm
import torch
from lvt_imagenet.evaluation import RealLabels
from lvt_imagenet.onnx_model import OnnxClassifier
from lvt_imagenet.records import read_rows
from lvt_imagenet.weights import read_weights
from PIL import Image

from lvt_d2.checkpoint import read_checkpoint
from lvt_d2.errors import CheckpointError

FAST = ("--workers", 0, "--batch-size", 4, "--device", "cpu")


@pytest.fixture
def evaluated(validate, tmp_path, capsys):
    """Validate; returns the row of results."""

    def run(data, checkpoint, *words, status=0):
        results = tmp_path / "results.csv"
        words = (data, "--checkpoint", checkpoint, "--results", results, *FAST, *words)
        assert validate.main([str(word) for word in words]) == status
        if status:
            error = capsys.readouterr().err
            assert "Traceback" not in error
            return error
        return read_rows(results)[-1]

    return run


def test_repeats_the_accuracy_of_the_training(evaluated, trained, images, capsys):
    best = read_checkpoint(trained / "best.pth")["metrics"]
    row = evaluated(images, trained / "best.pth")
    for name in ("top1", "top5", "loss"):
        assert float(row[name]) == pytest.approx(best[name], abs=1e-5)
    assert (row["images"], row["img_size"], row["model"]) == ("9", "32", "lvt_cls")
    assert float(row["images_per_second"]) > 0
    text = capsys.readouterr().out
    assert f"top-1 {best['top1']:.3f} %" in text and "images/s" in text


def test_rows_are_added(evaluated, trained, images, tmp_path):
    for size in (32, 64):
        evaluated(images, trained / "last.pth", "--img-size", size, "--crop-pct", 0.8)
    rows = read_rows(tmp_path / "results.csv")
    assert [(row["img_size"], row["crop_pct"]) for row in rows] == [("32", "0.8"), ("64", "0.8")]
    assert rows[0]["loss"] != rows[1]["loss"]


def test_folder_itself_and_its_classes_one_by_one(evaluated, trained, images, tmp_path):
    whole = evaluated(images / "val", trained / "best.pth")
    parts = []
    for name in ("bird", "cat", "dog"):
        shutil.copytree(images / "val" / name, tmp_path / name / name)
        parts.append(evaluated(tmp_path / name, trained / "best.pth"))
    for name in ("top1", "loss"):
        mean = sum(float(part[name]) for part in parts) / 3
        assert mean == pytest.approx(float(whole[name]), abs=1e-5)


def test_averaged_weights(evaluated, run, images, tmp_path):
    run(tmp_path, "--epochs", 1, "--ema", "--ema-decay", 0.99)
    last = tmp_path / "last.pth"
    plain, averaged = evaluated(images, last), evaluated(images, last, "--ema")
    (trained_row,) = read_rows(tmp_path / "metrics.csv")
    assert float(plain["loss"]) == pytest.approx(float(trained_row["loss"]), abs=1e-5)
    assert float(averaged["loss"]) == pytest.approx(float(trained_row["ema_loss"]), abs=1e-5)


@pytest.fixture(scope="module")
def official(goldens, synth, tmp_path_factory):
    """A file as published, with made-up weights."""
    keys = json.loads((goldens / "official" / "keys_cls.json").read_text())
    state = {name: torch.from_numpy(value) for name, value in synth.state_dict(keys).items()}
    path = tmp_path_factory.mktemp("official") / "lvt_imagenet.pth.tar"
    torch.save({"state_dict": state, "epoch": 299}, path)
    return path


def test_official_checkpoint_gives_the_published_logits(official, goldens, synth):
    from lvt_imagenet.weights import load_weights

    weights = read_weights(str(official))
    model = timm.create_model("lvt_cls").eval()
    load_weights(model, weights)
    x = torch.from_numpy(synth.normal(0, (1, 3, 64, 96))).float()
    expected = np.load(goldens / "official" / "cls.npz")["logits_s0_64x96"]
    with torch.no_grad():
        assert np.abs(model(x).numpy() - expected).max() < 1e-4


@pytest.mark.parametrize("h_w", [(300, 400), (500, 333), (231, 260), (120, 90)], ids=str)
def test_transform_is_the_published_one(goldens, synth, h_w, tmp_path):
    from lvt_imagenet.loaders import eval_loader
    from lvt_imagenet.settings import read_settings

    h, w = h_w
    settings = read_settings(["--workers", "0"], "")
    settings.mean, settings.std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    picture = Image.fromarray(synth.image_u8(h, h, w, 16))
    loader = eval_loader(Pictures(picture), settings, 2, torch.device("cpu"))
    expected = np.load(goldens / "official" / "clsextra.npz")[f"evaltf_{h}x{w}_sub4"]
    found = next(iter(loader)).images[0, :, ::4, ::4].numpy()
    assert np.abs(found - expected).max() < 1e-5 + 1 / 255 / 0.224


class Pictures(torch.utils.data.Dataset):
    """One picture, as torchvision's data sets give them."""

    def __init__(self, picture):
        self.picture = picture

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.picture, 0


def test_official_checkpoint_on_a_folder(evaluated, official, images, tmp_path, write):
    told = evaluated(images, official, "--img-size", 64, status=1)
    assert "3 classes" in told and "the model 1000" in told and "--class-map" in told
    names = [f"class{i}" for i in range(1000)]
    names[7], names[500], names[999] = "bird", "cat", "dog"
    (tmp_path / "classes.txt").write_text("\n".join(names))
    words = ("--class-map", tmp_path / "classes.txt", "--img-size", 64)
    row = evaluated(images, official, *words)
    assert row["images"] == "9" and float(row["loss"]) > 0


def test_real_labels(evaluated, trained, tmp_path, write):
    write(tmp_path / "val", {"bird": 2, "cat": 1, "dog": 1})
    names = {"bird/00": [0, 1, 2], "bird/01": [], "cat/00": [0, 1, 2], "dog/00": [99]}
    for number, old in enumerate(names, 1):
        path = tmp_path / "val" / f"{old}.png"
        path.rename(path.parent / f"ILSVRC2012_val_{number:08d}.JPEG")
    for content in (
        list(names.values()),
        {f"ILSVRC2012_val_{i:08d}.JPEG": v for i, v in enumerate(names.values(), 1)},
    ):
        (tmp_path / "real.json").write_text(json.dumps(content))
        words = ("--real-labels", tmp_path / "real.json")
        row = evaluated(tmp_path, trained / "best.pth", *words)
        assert float(row["real_top1"]) == pytest.approx(200 / 3)
    (tmp_path / "real.json").write_text(json.dumps(list(names.values())[:2]))
    told = evaluated(tmp_path, trained / "best.pth", *words, status=1)
    assert "has no entry" in told


@pytest.mark.parametrize("text", ["{", "3", '{"a": 1}'])
def test_real_labels_of_another_form(tmp_path, text):
    (tmp_path / "real.json").write_text(text)
    with pytest.raises(ValueError, match=r"real\.json"):
        RealLabels(tmp_path / "real.json", str)
    with pytest.raises(FileNotFoundError):
        RealLabels(tmp_path / "none.json", str)


@pytest.fixture(scope="module")
def onnx_files(tmp_path_factory):
    """A classifier of 3 classes as ONNX: for any batch, and for 4 images at a time."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("onnx")
    weight = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    for name, batch in (("any", "batch"), ("four", 4)):
        helper = onnx.helper
        nodes = [
            helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
            helper.make_node("MatMul", ["mean", "weight"], ["logits"]),
        ]
        graph = helper.make_graph(
            nodes,
            "classifier",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [batch, 3, 32, 32])],
            [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [batch, 3])],
            [
                onnx.numpy_helper.from_array(weight, "weight"),
                onnx.numpy_helper.from_array(np.array([2, 3]), "axes"),
            ],
        )
        opset = [helper.make_opsetid("", 18)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=9)
        onnx.save(model, folder / f"{name}.onnx")
    return folder, torch.from_numpy(weight)


@pytest.mark.parametrize("name", ["any", "four"])
def test_onnx(evaluated, images, onnx_files, name):
    folder, weight = onnx_files
    classify = OnnxClassifier(folder / f"{name}.onnx")
    x = torch.randn(6, 3, 32, 32)
    torch.testing.assert_close(classify(x), x.mean((2, 3)) @ weight)
    row = evaluated(images, folder / f"{name}.onnx")
    assert (row["model"], row["img_size"], row["images"]) == ("onnx", "32x32", "9")


def test_onnx_that_can_not_be(evaluated, images, onnx_files, tmp_path, monkeypatch):
    folder, _ = onnx_files
    assert "refuses images" in evaluated(images, folder / "any.onnx", "--img-size", 64, status=1)
    (tmp_path / "bad.onnx").write_bytes(b"no onnx")
    assert "can't be run" in evaluated(images, tmp_path / "bad.onnx", status=1)
    assert "does not exist" in evaluated(images, tmp_path / "none.onnx", status=1)
    assert "averaged" in evaluated(images, folder / "any.onnx", "--ema", status=2)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install onnxruntime" in evaluated(images, folder / "any.onnx", status=2)


def test_unreadable_images_are_left_out(evaluated, trained, images, tmp_path, capsys):
    data = shutil.copytree(images / "val", tmp_path / "data")
    (data / "cat" / "01.png").write_bytes(b"no image")
    row = evaluated(data, trained / "best.pth")
    assert (row["images"], row["unreadable"]) == ("8", "1")
    assert "01.png can't be read" in capsys.readouterr().out
    for path in data.glob("*/*.png"):
        path.write_bytes(b"no image")
    assert "No image" in evaluated(data, trained / "best.pth", status=1)


def test_classes_that_disagree(evaluated, trained, write, tmp_path):
    write(tmp_path / "data", {"bird": 1, "zebra": 1})
    told = evaluated(tmp_path / "data", trained / "best.pth", status=1)
    assert "1 of the 2 classes" in told and "zebra" in told and "bird, cat, dog" in told


def test_wrong_files_and_options(evaluated, trained, images, tmp_path):
    best = trained / "best.pth"
    assert "does not exist" in evaluated(images, tmp_path / "none.pth", status=1)
    assert "does not fit" in evaluated(images, best, "--model", "lvt", status=1)
    assert "no averaged weights" in evaluated(images, best, "--ema", status=1)
    assert "did you mean --crop-pct" in evaluated(images, best, "--crop-pc", 1, status=2)
    assert "does not exist" in evaluated(tmp_path / "none", best, status=1)
    (tmp_path / "results.csv").write_text("a,b\n1,2\n")
    assert "has the columns a, b" in evaluated(images, best, status=2)
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        read_weights(str(tmp_path / "list.pth"))
    torch.save({"model": {"x": 1}}, tmp_path / "numbers.pth")
    with pytest.raises(CheckpointError, match="no tensors"):
        read_weights(str(tmp_path / "numbers.pth"))
