"""The tool that writes token labels."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from lvt_imagenet.token_labels import (
    CompactLabels,
    OfficialLabels,
    TokenLabelTarget,
    create_token_label_loader,
    open_labels,
)
from lvt_imagenet.token_labels.annotator import DenseAnnotator
from PIL import Image
from timm.data import create_dataset, create_transform

TOOL = Path(__file__).parents[1] / "make_token_labels.py"
CLASSES = ("bird", "cat", "dog")


@pytest.fixture(scope="module")
def tool():
    """The tool as a module."""
    spec = importlib.util.spec_from_file_location("make_token_labels", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An annotator of three classes, in the form that timm's trainer writes."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3)
    path = tmp_path_factory.mktemp("annotator") / "model.pth.tar"
    weights = model.state_dict()
    averaged = {name: tensor + 0.1 for name, tensor in weights.items()}
    torch.save({"state_dict": weights, "state_dict_ema": averaged, "epoch": 1}, path)
    return path


@pytest.fixture
def data(tmp_path, write):
    """5 images of each of three classes; the second dog is none."""
    write(tmp_path / "data" / "train", dict.fromkeys(CLASSES, 5), size=40)
    (tmp_path / "data" / "train" / "dog" / "01.png").write_bytes(b"no image")
    return tmp_path / "data"


@pytest.fixture
def make(tool, checkpoint, data):
    """Run the tool; returns its exit status."""

    def run(output, *options, where=data):
        words = [
            *(where, "--model", "test_resnet", "--checkpoint", checkpoint, "--input-size", 64),
            *("--output", output, "--images-per-file", 4, "--batch-size", 3, "--workers", 0),
            *("--device", "cpu", *options),
        ]
        return tool.main([str(word) for word in words])

    return run


def _content(folder):
    """All files but the description, by name."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_both_formats_hold_what_the_annotator_sees(make, checkpoint, data, tmp_path):
    assert make(tmp_path / "official", "--format", "official") == 0
    assert make(tmp_path / "compact") == 0
    official, compact = (
        OfficialLabels(tmp_path / "official", 3),
        CompactLabels(tmp_path / "compact", 3),
    )
    assert len(compact) == len(_content(tmp_path / "official")) == 14
    model = timm.create_model("test_resnet", num_classes=3).eval()
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    image = Image.open(data / "train" / "cat" / "03.png").convert("RGB")
    config = timm.data.resolve_model_data_config(model)
    shown = create_transform(
        64, crop_pct=1.0, crop_mode="squash", interpolation=config["interpolation"],
        mean=config["mean"], std=config["std"],
    )(image)  # fmt: skip
    scores, classes = DenseAnnotator(model)(shown[None])
    for labels in (official, compact):
        label_map = labels.read("cat", "03")
        np.testing.assert_allclose(label_map.scores, scores[0].half().numpy(), atol=2e-3)
        np.testing.assert_array_equal(label_map.indices, classes[0])


def test_the_whole_image_is_shown(make, tmp_path):
    """The ends of a wide image are in its map; a centre crop would not show them."""
    for name, column in (("bird", 0), ("cat", 190), ("dog", None)):
        pixels = np.zeros((40, 200, 3), np.uint8)
        if column is not None:
            pixels[:, column : column + 10] = 255
        (tmp_path / "wide" / "train" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "wide" / "train" / name / "0.png")
    assert make(tmp_path / "labels", where=tmp_path / "wide") == 0
    labels = open_labels(tmp_path / "labels", 3)
    left, right, black = (labels.read(name, "0").scores for name in CLASSES)
    assert (left != black).any() and (right != black).any() and (left != right).any()


def test_the_summary(make, tmp_path, capsys):
    assert make(tmp_path / "labels") == 0
    out = capsys.readouterr().out
    assert "14 images labelled" in out and "1 unreadable" in out
    assert "unreadable: dog/01" in out
    assert "The annotator's class is the data set's for" in out
    info = json.loads((tmp_path / "labels" / "token_labels.json").read_text())
    assert info["classes"] == list(CLASSES) and info["shape"] == [3, 2, 2]


@pytest.mark.parametrize("kind", ["official", "compact"])
def test_it_goes_on_where_it_was_interrupted(make, tmp_path, kind, monkeypatch, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert make(whole, "--format", kind) == 0
    calls = []
    forward = DenseAnnotator.forward

    def interrupted(self, images):
        calls.append(len(images))
        if len(calls) == 4:  # the first is a trial
            raise KeyboardInterrupt
        return forward(self, images)

    monkeypatch.setattr(DenseAnnotator, "forward", interrupted)
    assert make(parts, "--format", kind) == 130
    assert "start again with the same options" in capsys.readouterr().err
    done = _content(parts)
    assert 0 < len(done) < len(_content(whole)), "whole files, and not all of them"
    before = {name: (parts / name).stat().st_mtime_ns for name in done}
    monkeypatch.setattr(DenseAnnotator, "forward", forward)
    assert make(parts, "--format", kind) == 0
    assert before == {name: (parts / name).stat().st_mtime_ns for name in done}
    assert _content(parts) == _content(whole)
    capsys.readouterr()
    assert make(parts, "--format", kind) == 0
    assert "0 images labelled" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["official", "compact"])
@pytest.mark.parametrize("by", ["option", "torchrun"])
def test_parts_make_up_the_whole(make, tmp_path, kind, by, monkeypatch):
    assert make(tmp_path / "whole", "--format", kind) == 0
    for part in range(3):
        if by == "torchrun":
            monkeypatch.setenv("RANK", str(part))
            monkeypatch.setenv("WORLD_SIZE", "3")
            assert make(tmp_path / "parts", "--format", kind) == 0
        else:
            assert make(tmp_path / "parts", "--format", kind, "--shard", f"{part}/3") == 0
        assert (part == 2) == (_content(tmp_path / "parts") == _content(tmp_path / "whole"))


def test_averaged_weights_and_raw_scores_are_others(make, tmp_path):
    contents = []
    for number, options in enumerate([(), ("--ema",), ("--raw-scores",), ("--amp", "bfloat16")]):
        assert make(tmp_path / f"{number}", *options) == 0
        contents.append(_content(tmp_path / f"{number}"))
    assert all(a != b for i, a in enumerate(contents) for b in contents[:i])


def test_labels_train_a_model(make, data, tmp_path):
    assert make(tmp_path / "labels") == 0
    loader = create_token_label_loader(
        create_dataset("", data / "train"),
        open_labels(tmp_path / "labels", 3),
        64,
        4,
        TokenLabelTarget(3, 2),
        device=torch.device("cpu"),
        num_workers=0,
    )
    for images, targets in loader:
        assert images.shape == (4, 3, 64, 64) and targets.shape == (4, 3, 6)
        torch.testing.assert_close(targets.sum(1), torch.ones(4, 6))


def test_a_tar_file(make, data, tmp_path):
    import tarfile

    assert make(tmp_path / "folder") == 0
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        tar.add(data / "train", ".")
    assert make(tmp_path / "tar", where=tmp_path / "train.tar") == 0
    assert _content(tmp_path / "tar") == _content(tmp_path / "folder")


def test_hugging_face_data_sets(make, data, tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (data / "train" / "dog" / "01.png").unlink()
    options = ("--dataset", f"hfds/{data / 'train'}")
    (tmp_path / "cache").mkdir()
    assert make(tmp_path / "hf", *options, where=tmp_path / "cache") == 0
    assert make(tmp_path / "folder") == 0
    assert _content(tmp_path / "hf") == _content(tmp_path / "folder")


def _says(make, capsys, *args, status=1, **kwargs):
    assert make(*args, **kwargs) == status
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_an_annotator_of_other_classes(make, data, tmp_path, capsys, write):
    write(data / "train", {"eel": 2}, size=40)
    error = _says(make, capsys, tmp_path / "labels", "--model-kwargs", "num_classes=3")
    assert "test_resnet knows 3 classes, but the data set has 4" in error
    error = _says(make, capsys, tmp_path / "labels")
    assert "does not fit this ResNet" in error and "fc.bias is (3,) there and (4,) here" in error


def test_a_checkpoint_that_tells_other_classes(make, checkpoint, tmp_path, capsys):
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    told = tmp_path / "told.pth"
    torch.save({"model": weights, "classes": ["bird", "dog", "cat"]}, told)
    error = _says(make, capsys, tmp_path / "labels", "--checkpoint", told)
    assert "classes that are not the 3 of the data set" in error
    assert "'dog' in place of 'cat'" in error
    torch.save({"model": weights, "classes": list(CLASSES)}, told)
    assert make(tmp_path / "labels", "--checkpoint", told) == 0


def test_maps_from_the_other_format(make, tmp_path, capsys, data):
    assert make(tmp_path / "official", "--format", "official") == 0
    assert make(tmp_path / "compact") == 0
    options = ("--from-labels", tmp_path / "official")
    assert make(tmp_path / "taken", *options) == 0
    assert "14 label maps" in capsys.readouterr().out
    one, other = (CompactLabels(tmp_path / name, 3) for name in ("compact", "taken"))
    for path in data.glob("train/*/*.png"):
        if path.parent.name + path.stem != "dog01":
            maps = [labels.read(path.parent.name, path.stem) for labels in (one, other)]
            np.testing.assert_array_equal(maps[0].scores, maps[1].scores)
            np.testing.assert_array_equal(maps[0].indices, maps[1].indices)
    options = ("--from-labels", tmp_path / "compact", "--format", "official")
    assert make(tmp_path / "back", *options) == 0
    assert _content(tmp_path / "back") == _content(tmp_path / "official")


def test_labels_of_another_run(make, tmp_path, capsys, data, write):
    assert make(tmp_path / "labels") == 0
    error = _says(make, capsys, tmp_path / "labels", "--ema")
    assert "other settings (ema: False, now True)" in error
    error = _says(make, capsys, tmp_path / "labels", "--images-per-file", "7")
    assert "labels-00000-of-00004.tokenlabels is not of this run" in error
    shutil.move(data / "train" / "bird" / "00.png", data / "train" / "bird" / "99.png")
    error = _says(make, capsys, tmp_path / "labels")
    assert "has labels of bird/00, which is not among the images" in error


def test_two_images_of_one_name(make, data, tmp_path, capsys):
    shutil.copy(data / "train" / "cat" / "00.png", data / "train" / "cat" / "00.jpg")
    assert "Two images are called cat/00" in _says(make, capsys, tmp_path / "labels")


def test_a_checkpoint_of_another_model(make, tmp_path, capsys):
    error = _says(make, capsys, tmp_path / "labels", "--model", "test_vit")
    assert "does not fit this VisionTransformer" in error
    missing = tmp_path / "nowhere.pth"
    assert "nowhere.pth does not exist" in _says(
        make, capsys, tmp_path / "labels", "--checkpoint", missing
    )
    torch.save({"state_dict": {}}, missing)
    assert "no averaged weights" in _says(
        make, capsys, tmp_path / "labels", "--checkpoint", missing, "--ema"
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--model", "no_such_model"), "model no_such_model can't be made"),
        (("--shard", "3/3"), "no part I/N"),
        (("--batch-size", "0"), "no whole number, 1 or more"),
        (("--modle", "x"), "--model"),
        (("--train-split", "nowhere"), "has no part 'nowhere'"),
    ],
)
def test_wrong_options(make, tmp_path, capsys, options, says):
    assert make(tmp_path / "labels", *options) in (1, 2)
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error


def test_data_sets_without_names(make, tmp_path, capsys, data):
    pytest.importorskip("webdataset")
    options = ("--dataset", "wds/", "--train-split", "a-{0..1}.tar|10")
    (tmp_path / "shards").mkdir()
    error = _says(make, capsys, tmp_path / "labels", *options, where=tmp_path / "shards", status=2)
    assert "does not tell file names" in error or "num-samples" in error


def test_the_command_line_works_from_anywhere(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, str(TOOL), "--help"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Write token labels" in result.stdout
