"""Weights of files into timm's models."""

import argparse

import pytest
import timm
import torch

from lvt_d2.checkpoint.official import TABLES
from lvt_d2.errors import CheckpointError, CheckpointFileNotFoundError
from lvt_d2.timm_models import checkpoint_filter_fn

NAMES = ["lvt", "lvt_cls"]
every_model = pytest.mark.parametrize("name", NAMES)


def create(name, **options):
    torch.manual_seed(0)
    return timm.create_model(name, **options)


def official_state(name, model):
    """A file's content under official names: the weights of one of our models."""
    kind, prefix = ("classifier", "") if name == "lvt_cls" else ("backbone", "backbone.")
    state = {}
    for official, entry in TABLES[kind]().items():
        tensor = model.state_dict()[prefix + entry.name]
        if official.endswith(".attn.weight.weight"):
            tensor = tensor.flatten(0, 1)[..., None, None]
        elif ".mlp.fc" in official and official.endswith("weight") and ".0.1." not in official:
            tensor = tensor[..., None, None] if "post_network" not in official else tensor
        state[official] = tensor
    return state


def randomized(name, **options):
    model = create(name, **options)
    for i, parameter in enumerate(model.parameters()):
        generator = torch.Generator().manual_seed(i)
        parameter.data.normal_(std=0.05, generator=generator)
    return model


def assert_same(model, expected, prefix=""):
    expected = {n: t for n, t in expected.state_dict().items() if n.startswith(prefix)}
    state = model.state_dict()
    assert expected and all(torch.equal(state[n], t) for n, t in expected.items())


@every_model
def test_state_dict_round_trip(name, tmp_path):
    model = randomized(name)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    other = create(name, checkpoint_path=str(tmp_path / "w.pth"))
    assert_same(other, model)
    assert_same(other, model, "head")


CONTAINERS = ["bare", "module.", "state_dict", "state_dict_ema", "args"]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("route", ["checkpoint_path", "file"])
def test_official_classifier_files(container, route, tmp_path):
    model = randomized("lvt_cls")
    content = official_state("lvt_cls", model)
    if container == "module.":
        content = {f"module.{n}": t for n, t in content.items()}
    elif container == "state_dict_ema":
        other = {n: torch.zeros_like(t) for n, t in content.items()}
        content = {"state_dict": other, "state_dict_ema": content}
    elif container != "bare":
        content = {"state_dict": content, "epoch": 3, "arch": "lvt"}
    if container == "args":
        content["args"] = argparse.Namespace(lr=1.0)
    path = str(tmp_path / "lvt_imagenet.pth.tar")
    torch.save(content, path)
    options = {"checkpoint_path": path}
    if route == "file":
        options = {"pretrained": True, "pretrained_cfg_overlay": {"file": path}}
    loaded = create("lvt_cls", **options)
    assert_same(loaded, model)
    assert "state_dict" not in loaded.pretrained_cfg


def pretrained(name, content, tmp_path, **options):
    path = tmp_path / "file.pth"
    torch.save(content, path)
    return create(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **options)


@every_model
def test_backbone_files_start_a_classifier(name, tmp_path, caplog):
    model = randomized("lvt")
    bare = {n.removeprefix("backbone."): t for n, t in model.backbone.state_dict().items()}
    for content in (official_state("lvt", model), bare, {"model": bare}):
        caplog.clear()
        loaded = pretrained(name, content, tmp_path)
        assert_same(loaded, model, "backbone.")
        assert loaded.get_classifier().weight.std() < 0.03
        assert "initialises the backbone. Random weights remain in: " in caplog.text


def test_the_classifiers_files_start_each_other(tmp_path, caplog):
    for theirs, ours in (NAMES, NAMES[::-1]):
        model = randomized(theirs)
        caplog.clear()
        assert_same(pretrained(ours, model.state_dict(), tmp_path), model, "backbone.")
        assert "Not used from the file: " in caplog.text and "head" in caplog.text


@every_model
def test_pretrained_weights_adapt(name, tmp_path):
    model = randomized(name)
    state = model.state_dict()
    loaded = pretrained(name, state, tmp_path, num_classes=10, in_chans=1)
    assert loaded.get_classifier().out_features == 10
    first = "backbone.stages.0.patch_embed.proj.weight"
    torch.testing.assert_close(loaded.state_dict()[first], state[first].sum(1, keepdim=True))
    assert_same(loaded, model, "backbone.stages.1")
    features = pretrained(name, state, tmp_path, features_only=True)
    assert torch.equal(features.state_dict()[f"model.{first}"], state[first])
    assert "state_dict" not in features.pretrained_cfg


@every_model
def test_no_weights_are_shipped(name):
    with pytest.raises(CheckpointError, match=f"No weights of {name} come with this project"):
        create(name, pretrained=True)
    overlay = {"file": "absent.pth"}
    with pytest.raises(CheckpointFileNotFoundError, match=r"absent\.pth does not exist"):
        create(name, pretrained=True, pretrained_cfg_overlay=overlay)


@every_model
def test_checkpoints_of_other_models(name, tmp_path):
    other = {"conv1.weight": torch.ones(1)}
    with pytest.raises(CheckpointError, match="of another model: it has conv1.weight"):
        pretrained(name, {"state_dict": other}, tmp_path)
    torch.save(other, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"none of its 1 entries \(conv1\.weight, \.\.\.\)"):
        create(name, checkpoint_path=str(tmp_path / "other.pth"))
    with pytest.raises(CheckpointError, match="holds no dict of weights"):
        pretrained(name, [1], tmp_path)
    segmentor = {name: torch.ones(1) for name in TABLES["segformer"]()}
    with pytest.raises(CheckpointError):
        checkpoint_filter_fn(segmentor, create(name))


@every_model
def test_missing_entries_are_an_error(name, tmp_path):
    state = randomized(name).state_dict()
    del state["backbone.stages.2.blocks.1.norm1.bias"]
    with pytest.raises(RuntimeError, match=r"stages\.2\.blocks\.1\.norm1\.bias"):
        pretrained(name, state, tmp_path)
