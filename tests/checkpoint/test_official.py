"""Official parameter names and layouts to ours."""

import collections
import csv
import json

import numpy as np
import pytest
import torch

from lvt_d2.checkpoint.official import (
    TABLES,
    convert_official,
    detect_kind,
    find_state_dict,
    is_official,
)
from lvt_d2.errors import CheckpointError
from lvt_d2.modeling.lvt import LVT

KEY_LISTS = {
    "classifier": "keys_cls.json",
    "backbone": "keys_backbone_pretrained.json",
    "segformer": "keys_seg.json",
    "panoptic": "keys_pan.json",
}


def small_official(kind):
    """A state dict with the official names of a kind; every tensor (2, 1, 1) of its own number."""
    return {name: torch.full((2, 1, 1), float(i)) for i, name in enumerate(TABLES[kind]())}


def make_convertible(state):
    """Give tensors whose layout is converted a shape that can be."""
    for name in state:
        if name.endswith(".attn.weight.weight"):
            state[name] = torch.arange(36.0).view(18, 2, 1, 1)
        elif ".mlp.fc" in name and name.endswith("weight"):
            state[name] = torch.arange(6.0).view(2, 3, 1, 1)
    return state


@pytest.mark.parametrize(
    ("kind", "entries", "kept"),
    [
        ("classifier", 179, 179),
        ("backbone", 148, 148),
        ("segformer", 166, 164),
        ("panoptic", 213, 213),
    ],
)
def test_every_kind_is_detected_and_converted(kind, entries, kept):
    state = make_convertible(small_official(kind))
    assert len(state) == entries
    assert detect_kind(state) == kind
    converted = convert_official(state)
    assert converted.kind == kind and converted.weights == ""
    assert list(converted.names) == list(state)
    assert len(converted.model) == kept
    assert not is_official(converted.model)


@pytest.mark.parametrize("kind", KEY_LISTS)
def test_tables_hold_the_published_names(kind, goldens):
    keys = json.loads((goldens / "official" / KEY_LISTS[kind]).read_text())
    assert set(TABLES[kind]()) == {key["name"] for key in keys}


def test_heads_have_detectron2s_names(goldens):
    tables = TABLES["panoptic"]() | TABLES["segformer"]()
    seen = set()
    with (goldens / "official_to_detectron2.tsv").open() as file:
        for row in csv.reader(file, delimiter="\t"):
            official, expected = row[0], row[1].split(" ")[0]
            if official in tables:
                ours = tables[official].name
                assert ours == (None if expected == "(drop:" else expected)
                seen.add(official)
    heads = {name for name in tables if not name.startswith("backbone.")}
    assert heads == seen


def test_backbone_names_are_those_of_the_model():
    lvt = LVT().state_dict()
    for kind, prefix in (
        ("backbone", ""),
        ("classifier", "backbone."),
        ("segformer", "backbone."),
        ("panoptic", "backbone.bottom_up."),
    ):
        names = {entry.name for entry in TABLES[kind]().values() if entry.name}
        own = {name for name in names if name.startswith(f"{prefix}stages.")}
        assert own == {prefix + name for name in lvt}


def test_layouts():
    state = make_convertible(small_official("backbone"))
    model = convert_official(state).model
    values = model["stages.0.blocks.1.attn.value_weight"]
    assert values.shape == (9, 2, 2)
    for p in range(9):
        rows = state["backbone.0.1.1.attn.weight.weight"][2 * p : 2 * p + 2, :, 0, 0]
        assert torch.equal(values[p], rows)
    assert model["stages.2.blocks.0.mlp.fc1.weight"].shape == (2, 3)
    linear = make_convertible(small_official("backbone"))
    linear["backbone.0.1.0.mlp.fc1.weight"] = torch.ones(4, 2)
    assert convert_official(linear).model["stages.0.blocks.0.mlp.fc1.weight"].shape == (4, 2)


def test_semantic_rows_get_things_first():
    state = make_convertible(small_official("panoptic"))
    state["semantic_head.conv_logits.bias"] = torch.arange(54.0)
    model = convert_official(state).model
    assert model["sem_seg_head.predictor.bias"].tolist() == [53.0, *map(float, range(53))]


def test_containers():
    state = make_convertible(small_official("classifier"))
    parallel = collections.OrderedDict((f"module.{name}", v) for name, v in state.items())
    average = {name: tensor + 1 for name, tensor in state.items()}
    file = {"state_dict": parallel, "state_dict_ema": average, "args": object(), "optimizer": {}}
    name = "norm.bias"
    converted = convert_official(file)
    assert converted.weights == "state_dict"
    assert torch.equal(converted.model[name], state[name])
    averaged = convert_official(file, ema=True)
    assert averaged.weights == "state_dict_ema"
    assert torch.equal(averaged.model[name], average[name])
    assert find_state_dict(parallel)[0] == ""
    with pytest.raises(CheckpointError, match="no averaged weights"):
        convert_official({"state_dict": state}, ema=True)


def test_leftovers_and_missing_entries_are_named():
    state = make_convertible(small_official("panoptic"))
    del state["rpn_head.rpn_cls.bias"], state["backbone.backbone.3.1.1.norm2.bias"]
    state["roi_head.extra.weight"] = torch.ones(1)
    with pytest.raises(CheckpointError) as info:
        convert_official(state)
    for part in ("Panoptic FPN", "2 entries are missing", "rpn_head.rpn_cls.bias"):
        assert part in str(info.value)
    assert "1 are unknown (roi_head.extra.weight)" in str(info.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"conv1.weight": torch.ones(1)}, "no official LVT checkpoint"),
        ({"stages.0.patch_embed.proj.weight": torch.ones(1)}, "no official LVT checkpoint"),
        ({"backbone.backbone.0.0.proj.weight": torch.ones(1)}, "no official LVT checkpoint"),
        ({"epoch": 3, "state": {}}, "2 of 2 entries are not tensors"),
        ({}, "no state dict"),
        ([1, 2], "is a list"),
    ],
)
def test_other_content(content, message):
    assert not is_official(content)
    with pytest.raises(CheckpointError, match=message):
        convert_official(content)


def test_wrong_layout_names_the_entry():
    state = make_convertible(small_official("backbone"))
    state["backbone.0.1.0.attn.weight.weight"] = torch.ones(10, 2, 1, 1)
    with pytest.raises(CheckpointError, match=r"backbone\.0\.1\.0\.attn\.weight\.weight.*\(10, 2"):
        convert_official(state)


@pytest.mark.parametrize("kind", KEY_LISTS)
def test_values_of_the_published_layout(kind, goldens, synth):
    """Every number of a file arrives, at its place."""
    folder = goldens / "official"
    keys = json.loads((folder / KEY_LISTS[kind]).read_text())
    arrays = synth.state_dict(keys, stored=np.load(folder / "stored_pan.npz"))
    state = {name: torch.as_tensor(array) for name, array in arrays.items()}
    converted = convert_official(state)
    for official, ours in converted.names.items():
        if ours is not None:
            theirs, own = state[official], converted.model[ours]
            if official.startswith("semantic_head.conv_logits"):
                own = torch.cat([own[1:], own[:1]])
            assert torch.equal(own.flatten(), theirs.flatten()), official
    sizes = {"classifier": 5_521_844, "backbone": 3_429_092, "panoptic": 5_349_770}
    total = sum(
        t.numel() for n, t in converted.model.items() if "running" not in n and "num_" not in n
    )
    assert total == sizes.get(kind, 3_870_586)
