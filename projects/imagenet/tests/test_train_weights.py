"""Weights of other files, to start a training from."""

import json

import pytest
import timm
import torch
from lvt_imagenet.weights import Weights, read_weights, start_from

from lvt_d2.errors import CheckpointError
from lvt_d2.modeling import LVT


def changed(model, before):
    state = model.state_dict()
    return {name.split(".")[0] for name in state if not torch.equal(state[name], before[name])}


@pytest.fixture
def model():
    return timm.create_model("lvt_cls", num_classes=5)


def test_official_backbone(model, goldens, synth, tmp_path):
    path = goldens / "official" / "keys_backbone_pretrained.json"
    state = synth.state_dict(json.loads(path.read_text()))
    torch.save({name: torch.from_numpy(v) for name, v in state.items()}, tmp_path / "b.pth.tar")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start_from(model, read_weights(str(tmp_path / "b.pth.tar")), ["a"] * 5)
    assert changed(model, before) == {"backbone"}
    weights = read_weights(str(tmp_path / "b.pth.tar"))
    assert all(torch.equal(model.state_dict()[name], v) for name, v in weights.state.items())
    with pytest.raises(CheckpointError, match="has no averaged weights"):
        read_weights(str(tmp_path / "b.pth.tar"), averaged=True)


def test_official_classifier_has_other_classes(model, goldens, synth, tmp_path):
    path = goldens / "official" / "keys_cls.json"
    state = synth.state_dict(json.loads(path.read_text()))
    state = {f"module.{name}": torch.from_numpy(value) for name, value in state.items()}
    torch.save({"state_dict_ema": state, "epoch": 1}, tmp_path / "c.pth.tar")
    weights = read_weights(str(tmp_path / "c.pth.tar"), averaged=True)
    assert weights.num_classes == 1000 and weights.averaged
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start_from(model, weights, [])
    assert changed(model, before) == {"backbone", "cls_token", "class_blocks", "norm"}


def test_pooled_model_starts_the_classifier(model):
    other = timm.create_model("lvt", num_classes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start_from(model, Weights("lvt.pth", other.state_dict()), [])
    assert changed(model, before) == {"backbone"}


def test_backbone_of_another_size_can_not(model):
    other = LVT(embed_dims=(32, 64, 160, 256)).state_dict()
    state = {f"backbone.{name}": value for name, value in other.items()}
    with pytest.raises(CheckpointError, match="can't start this LVTClassifier: .* another shape"):
        start_from(model, Weights("small.pth", state), [])


def test_official_file_of_another_task(goldens, synth, tmp_path):
    path = goldens / "official" / "keys_seg.json"
    state = synth.state_dict(json.loads(path.read_text()))
    torch.save({name: torch.as_tensor(v) for name, v in state.items()}, tmp_path / "s.pth")
    with pytest.raises(CheckpointError, match="expected a classifier"):
        read_weights(str(tmp_path / "s.pth"))
