"""SegFormer with LVT against numbers recorded from the official code, for the same weights.

The weights go through a file in the official format, which the checkpointer reads; the model is
that of ``configs/segformer_lvt.py``.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from torch import Tensor

from lvt_d2.checkpoint import LVTCheckpointer
from lvt_d2.checkpoint.official import TABLES

CONFIG = Path(__file__).parents[2] / "configs/segformer_lvt.py"
OWN_NUMBERS = Path(__file__).parents[1] / "data/segformer_lvt_outputs.json"
# Seed and size of the recorded inputs, and the size that their images had before.
ITEMS = [(0, (128, 160), (100, 133)), (1, (96, 64), (150, 101))]


@pytest.fixture(scope="module")
def recorded(goldens):
    with np.load(goldens / "official/seg.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def facts(goldens):
    return json.loads((goldens / "official/seg.json").read_text())


@pytest.fixture(scope="module")
def official_state(goldens, synth):
    keys = json.loads((goldens / "official/keys_seg.json").read_text())
    return {name: torch.as_tensor(array) for name, array in synth.state_dict(keys).items()}


@pytest.fixture(scope="module")
def load(official_state, tmp_path_factory):
    """Function that makes the model, with arguments changed, with the official weights."""
    path = tmp_path_factory.mktemp("official") / "segformer_lvt_ade20k.pth"
    content = {"meta": {"iter": 160000, "config": "model = dict()"}, "state_dict": official_state}
    torch.save(content, path)
    return lambda **arguments: load_segformer(path, **arguments)


def load_segformer(path: Path, **arguments) -> torch.nn.Module:
    cfg = LazyConfig.load(str(CONFIG)).model
    for name, value in arguments.items():
        cfg[name] = value
    model = instantiate(cfg).eval()
    LVTCheckpointer(model).load(str(path))
    return model


@pytest.fixture(scope="module")
def model(load):
    return load()


def assert_near(actual: Tensor, expected: np.ndarray, tolerance: float) -> None:
    assert tuple(actual.shape) == expected.shape
    difference = np.abs(actual.detach().numpy() - expected).max()
    assert difference <= tolerance, f"differs by {difference:.3g}"


def as_image(model, x: Tensor) -> Tensor:
    """The image that the model normalises to x, (3, H, W)."""
    return x * model.pixel_std + model.pixel_mean


def predict(model, synth, seed: int, size: tuple, original: tuple) -> Tensor:
    x = torch.from_numpy(synth.normal(seed, (3, *size)))
    sample = {"image": as_image(model, x), "height": original[0], "width": original[1]}
    with torch.no_grad():
        return model([sample])[0]["sem_seg"]


def item_name(seed: int, size: tuple, original: tuple | None = None) -> str:
    name = f"s{seed}_{size[0]}x{size[1]}"
    return f"{name}_to_{original[0]}x{original[1]}" if original else name


def test_parameters(model):
    assert sum(p.numel() for p in model.parameters()) == 3_870_586
    assert sum(p.numel() for p in model.sem_seg_head.parameters()) == 441_494
    norm = model.sem_seg_head.linear_fuse.norm
    assert (norm.eps, norm.momentum) == (1e-5, 0.1)


@pytest.mark.parametrize(("seed", "size", "original"), ITEMS)
def test_logits(model, synth, recorded, seed, size, original):
    x = torch.from_numpy(synth.normal(seed, (1, 3, *size)))
    name = item_name(seed, size)
    with torch.no_grad():
        features = model.backbone(x)
        logits = model.sem_seg_head.layers(features)
        full, losses = model.sem_seg_head(features)
    assert losses == {}
    assert_near(logits, recorded[f"logits4_{name}"], 1e-4)
    assert_near(full[..., ::8, ::8], recorded[f"full_sub8_{name}"], 1e-4)
    agree = full[0].argmax(0).numpy() == recorded[f"full_argmax_{name}"]
    assert agree.mean() >= 0.9999


@pytest.mark.parametrize(("seed", "size", "original"), ITEMS)
def test_label_maps(model, load, synth, recorded, seed, size, original):
    name = item_name(seed, size, original)
    labels = predict(model, synth, seed, size, original).numpy()
    assert labels.dtype == np.uint8
    assert (labels == recorded[f"pred_{name}"]).mean() >= 0.9998
    scores = predict(load(labels_only=False), synth, seed, size, original)
    assert_near(scores.softmax(0)[:, ::16, ::16], recorded[f"prob_sub16_{name}"][0], 1e-5)
    assert (scores.argmax(0).numpy() == recorded[f"pred_{name}"]).mean() >= 0.9998


@pytest.mark.parametrize(("seed", "size", "original"), ITEMS)
def test_mirrored_views(load, synth, recorded, seed, size, original):
    labels = predict(load(flip=True), synth, seed, size, original).numpy()
    assert (labels == recorded[f"predaug_hflip_{item_name(seed, size, original)}"]).mean() >= 0.9998


@pytest.mark.parametrize("windows_per_batch", [1, 3, 9])
def test_sliding_windows(load, synth, recorded, windows_per_batch):
    sliding = {"window": 96, "window_stride": 64, "windows_per_batch": windows_per_batch}
    labels = predict(load(**sliding), synth, *ITEMS[0]).numpy()
    assert (labels == recorded["slide96s64_pred_to_100x133"]).mean() >= 0.9998
    scores = predict(load(**sliding, labels_only=False), synth, *ITEMS[0])
    probabilities = scores.softmax(0)[:, ::16, ::16]
    assert_near(probabilities, recorded["slide96s64_prob_sub16_to_100x133"][0], 1e-5)


def assert_gradients(model, expected: dict) -> None:
    names = {entry.name: official for official, entry in TABLES["segformer"]().items()}
    for name, parameter in model.named_parameters():
        norm = pytest.approx(expected[names[name]], rel=2e-3, abs=1e-7)
        assert parameter.grad.norm().item() == norm, name


def test_loss_and_gradients_of_running_statistics(load, synth, facts):
    model = load()
    seed, size, _ = ITEMS[0]
    x = torch.from_numpy(synth.normal(seed, (1, 3, *size)))
    targets = torch.from_numpy(synth.seg_gt(300 + seed, 1, *size))[:, 0]
    head = model.sem_seg_head
    loss = head.losses(head.layers(model.backbone(x)), targets)["loss_sem_seg"]
    assert loss.item() == pytest.approx(facts["loss_evalmode"]["loss_seg"], rel=1e-4)
    loss.backward()
    assert_gradients(model, facts["grad_evalmode"])


def test_loss_gradients_and_statistics_of_training(load, synth, facts, recorded):
    model = load().train()
    model.sem_seg_head.dropout.p = 0.0
    size = ITEMS[0][1]
    images = as_image(model, torch.from_numpy(synth.normal(0, (2, 3, *size))))
    targets = torch.from_numpy(synth.seg_gt(400, 2, *size))[:, 0]
    losses = model(
        [{"image": i, "sem_seg": t} for i, t in zip(images, targets, strict=True)],
    )
    assert losses.keys() == {"loss_sem_seg"}
    expected = facts["loss_train"]["decode.loss_seg"]
    assert losses["loss_sem_seg"].item() == pytest.approx(expected, rel=1e-4)
    losses["loss_sem_seg"].backward()
    assert_gradients(model, facts["grad_train"])
    norm = model.sem_seg_head.linear_fuse.norm
    assert_near(norm.running_mean, recorded["train_bn_running_mean_after"], 1e-5)
    assert_near(norm.running_var, recorded["train_bn_running_var_after"], 1e-5)


def test_own_numbers(rule_weights, rule_image, tmp_path):
    """As above, where the recorded numbers are not at hand."""
    fresh = instantiate(LazyConfig.load(str(CONFIG)).model)
    torch.save({"state_dict": rule_weights("segformer", fresh)}, tmp_path / "segformer.pth")
    recorded = json.loads(OWN_NUMBERS.read_text())
    for name, actual in own_outputs(tmp_path / "segformer.pth", rule_image, **recorded).items():
        step, expected = recorded["outputs"][name].values()
        tolerance = 1e-4 * np.abs(expected).max()
        assert_near(actual.flatten()[::step], np.array(expected), tolerance)


def own_outputs(path: Path, rule_image, size: list, original: list, **_) -> dict[str, Tensor]:
    """Logits at stride 4, scores at another size, and those of mirrored sliding windows."""
    model = load_segformer(path, labels_only=False)
    views = load_segformer(path, labels_only=False, flip=True, window=64, window_stride=40)
    x = rule_image(*size)
    sample = {"image": as_image(model, x[0]), "height": original[0], "width": original[1]}
    with torch.no_grad():
        return {
            "logits": model.sem_seg_head.layers(model.backbone(x)),
            "scores": model([sample])[0]["sem_seg"],
            "views": views([sample])[0]["sem_seg"],
        }
