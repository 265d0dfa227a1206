"""What ``LVTCheckpointer`` loads, and what it says about what it does not."""

import logging
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from lvt_d2.checkpoint import LVTCheckpointer
from lvt_d2.checkpoint.official import TABLES, convert_official
from lvt_d2.errors import CheckpointError, CheckpointFileNotFoundError

OFFICIAL_LVT = {name: entry.name for name, entry in TABLES["backbone"]().items()}


class Numbers(nn.Module):
    """A module with the given parameters, whatever their names."""

    def __init__(self, shapes):
        super().__init__()
        for name, shape in shapes.items():
            module, parts = self, name.split(".")
            for part in parts[:-1]:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            module.register_parameter(parts[-1], nn.Parameter(torch.zeros(shape)))


def official_lvt(prefix=""):
    """A small LVT under official names; distinct values."""
    state = {}
    for i, name in enumerate(OFFICIAL_LVT):
        shape = (2,)
        if name.endswith("attn.weight.weight"):
            shape = (18, 2, 1, 1)
        elif ".mlp.fc" in name and name.endswith("weight"):
            shape = (3, 2, 1, 1)
        state[prefix + name] = torch.full(shape, i + 1.0)
    return state


@pytest.fixture
def lvt():
    return convert_official(official_lvt()).model


@pytest.fixture
def detector(lvt):
    """A detector's parameters around a small LVT."""
    shapes = {f"backbone.bottom_up.{name}": tensor.shape for name, tensor in lvt.items()}
    shapes |= {"backbone.fpn_lateral2.weight": (2,), "roi_heads.fc.weight": (3,)}
    return Numbers({**shapes, "roi_heads.fc.bias": (3,)})


def save(path, content):
    torch.save(content, path)
    return str(path)


def test_own_checkpoints_round_trip(tmp_path, detector):
    with torch.no_grad():
        for i, parameter in enumerate(detector.parameters()):
            parameter.fill_(i)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=0.5)
    saver = LVTCheckpointer(detector, str(tmp_path), optimizer=optimizer)
    saver.save("model_0000009", iteration=9, random=np.random.get_state())
    expected = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.fill_(-1)
    optimizer.param_groups[0]["lr"] = 0.1
    extra = saver.resume_or_load("", resume=True)
    assert extra["iteration"] == 9 and len(extra["random"]) == 5
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert all(torch.equal(t, expected[n]) for n, t in detector.state_dict().items())


def test_only_the_model_is_loaded_without_resuming(tmp_path, detector):
    optimizer = torch.optim.AdamW(detector.parameters(), lr=0.5)
    LVTCheckpointer(detector, str(tmp_path), optimizer=optimizer).save("a", iteration=9)
    optimizer.param_groups[0]["lr"] = 0.1
    other = LVTCheckpointer(detector, optimizer=optimizer)
    other.resume_or_load(str(tmp_path / "a.pth"), resume=False)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_empty_path_loads_nothing(detector):
    assert LVTCheckpointer(detector).load("") == {}


@pytest.mark.parametrize("form", ["model", "bare", "module."])
def test_full_state_dicts(tmp_path, detector, form):
    state = {name: torch.ones_like(tensor) for name, tensor in detector.state_dict().items()}
    if form == "module.":
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    path = save(tmp_path / "w.pth", {"model": state} if form == "model" else state)
    LVTCheckpointer(detector).load(path)
    assert all((parameter == 1).all() for parameter in detector.parameters())


@pytest.mark.parametrize("form", ["official", "official state_dict", "converted", "wrapped"])
def test_backbone_file_initialises_the_backbone_only(tmp_path, detector, lvt, form, caplog):
    content = {
        "official": official_lvt(),
        "official state_dict": {"state_dict": official_lvt(), "optimizer": {}, "epoch": 3},
        "converted": {"model": lvt, "lvt_d2": {"kind": "backbone"}},
        "wrapped": {f"backbone.{name}": tensor for name, tensor in lvt.items()},
    }[form]
    path = save(tmp_path / "lvt_imagenet_pretrained.pth.tar", content)
    optimizer = torch.optim.AdamW(detector.parameters())
    with caplog.at_level(logging.INFO):
        extra = LVTCheckpointer(detector, optimizer=optimizer).load(path)
    assert "optimizer" not in extra and "epoch" not in extra
    for name, tensor in detector.state_dict().items():
        source = lvt.get(name.removeprefix("backbone.bottom_up."))
        assert torch.equal(tensor, torch.zeros_like(tensor) if source is None else source)
    assert "initialises backbone.bottom_up." in caplog.text
    assert "Random weights remain in: backbone.fpn_lateral2, roi_heads." in caplog.text
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_classifier_file_initialises_the_backbone_only(tmp_path, detector, lvt, caplog):
    state = {name: torch.ones(2) for name in TABLES["classifier"]()}
    state |= official_lvt()
    path = save(tmp_path / "lvt_imagenet.pth.tar", {"state_dict": state})
    with caplog.at_level(logging.INFO):
        LVTCheckpointer(detector).load(path)
    loaded = detector.state_dict()
    assert all(torch.equal(loaded[f"backbone.bottom_up.{n}"], t) for n, t in lvt.items())
    assert (loaded["roi_heads.fc.weight"] == 0).all()
    for part in ("cls_token", "class_blocks", "aux_head"):
        assert part in caplog.text


def test_backbone_of_fewer_stages_takes_its_part(tmp_path, lvt, caplog):
    shapes = {name: t.shape for name, t in lvt.items() if not name.startswith("stages.3")}
    model = Numbers({f"backbone.{name}": shape for name, shape in shapes.items()} | {"a.b": (1,)})
    with caplog.at_level(logging.INFO):
        LVTCheckpointer(model).load(save(tmp_path / "w.pth", official_lvt()))
    assert torch.equal(
        model.state_dict()["backbone.stages.2.patch_embed.norm.bias"],
        lvt["stages.2.patch_embed.norm.bias"],
    )
    assert "Not used from the file: stages" in caplog.text


def test_plain_lvt_and_classifier_models(tmp_path, lvt):
    model = Numbers({name: tensor.shape for name, tensor in lvt.items()})
    LVTCheckpointer(model).load(save(tmp_path / "w.pth", official_lvt()))
    assert all(torch.equal(t, lvt[n]) for n, t in model.state_dict().items())
    classifier = {f"backbone.{name}": tensor for name, tensor in lvt.items()}
    classifier |= {"cls_token": torch.ones(2), "head.weight": torch.ones(5)}
    model = Numbers({name: tensor.shape for name, tensor in classifier.items()})
    LVTCheckpointer(model).load(save(tmp_path / "c.pth", {"model": classifier}))
    assert all(torch.equal(t, classifier[n]) for n, t in model.state_dict().items())
    del classifier["head.weight"]
    with pytest.raises(CheckpointError, match=r"1 missing in the file \(head\.weight\)"):
        LVTCheckpointer(model).load(save(tmp_path / "d.pth", {"model": classifier}))


def test_what_does_not_fit_is_counted_and_named(tmp_path, detector):
    state = {name: torch.ones_like(tensor) for name, tensor in detector.state_dict().items()}
    del state["backbone.fpn_lateral2.weight"]
    state |= {"roi_heads.fc.weight": torch.ones(80), "extra.a": torch.ones(1)}
    path = save(tmp_path / "w.pth", {"model": state})
    checkpointer = LVTCheckpointer(detector)
    with pytest.raises(CheckpointError) as info:
        checkpointer.load(path)
    for part in (
        path,
        "Numbers",
        "1 missing in the file (backbone.fpn_lateral2.weight)",
        "1 unknown to the model (extra.a)",
        "1 of another shape (roi_heads.fc.weight is (80,) in the file and (3,) in the model)",
        "?matching_heuristics=True",
    ):
        assert part in str(info.value)
    assert all((parameter == 0).all() for parameter in detector.parameters())
    # The same object goes on, with what the message advises.
    checkpointer.load(f"{path}?matching_heuristics=True")
    assert (detector.state_dict()["roi_heads.fc.bias"] == 1).all()
    assert (detector.state_dict()["roi_heads.fc.weight"] == 0).all()


def test_backbone_file_that_does_not_fit(tmp_path, detector):
    state = official_lvt()
    state["backbone.2.0.norm.bias"] = torch.ones(7)
    with pytest.raises(CheckpointError, match=r"1 of another shape \(backbone\.bottom_up\.stages"):
        LVTCheckpointer(detector).load(save(tmp_path / "w.pth", state))
    del state["backbone.2.0.norm.bias"]
    with pytest.raises(CheckpointError, match=r"1 entries are missing \(backbone\.2\.0\.norm"):
        LVTCheckpointer(detector).load(save(tmp_path / "w.pth", state))


def test_many_misfits_are_abridged(tmp_path, detector):
    path = save(tmp_path / "w.pth", {"model": {f"conv{i}": torch.ones(1) for i in range(99)}})
    with pytest.raises(CheckpointError, match=r"99 unknown to the model \(conv0, .*\.\.\.\)") as e:
        LVTCheckpointer(detector).load(path)
    assert len(str(e.value)) < 900


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {}}, "has no weights"),
        ({"model": [1]}, "has no weights"),
        ({"epoch": 3}, "has no weights"),
        ([torch.ones(1)], "has no weights"),
        ({"model": {"a": "text"}}, r"1 of 1 entries are not tensors \(a\)"),
    ],
)
def test_files_without_weights(tmp_path, detector, content, message):
    with pytest.raises(CheckpointError, match=message):
        LVTCheckpointer(detector).load(save(tmp_path / "w.pth", content))


def test_bad_paths(tmp_path, detector):
    checkpointer = LVTCheckpointer(detector)
    with pytest.raises(CheckpointFileNotFoundError, match=r"absent\.pth does not exist"):
        checkpointer.load(str(tmp_path / "absent.pth"))
    path = save(tmp_path / "w.pth", {"model": {}})
    with pytest.raises(CheckpointError, match="asks for colour"):
        checkpointer.load(f"{path}?colour=red")


def test_pickles_of_detectron(tmp_path, detector):
    state = {n: np.ones(tuple(t.shape), np.float32) for n, t in detector.state_dict().items()}
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"model": state, "__author__": "me"}))
    LVTCheckpointer(detector).load(str(path))
    assert all((parameter == 1).all() for parameter in detector.parameters())
    blobs = {"roi_heads.fc.bias": 2 * np.ones(3, np.float32), "roi_heads.fc.bias_momentum": 0}
    path.write_bytes(pickle.dumps({"blobs": blobs}))
    LVTCheckpointer(detector).load(str(path))
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(CheckpointError, match="expected a dict of arrays"):
        LVTCheckpointer(detector).load(str(path))
