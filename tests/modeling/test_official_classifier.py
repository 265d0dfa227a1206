"""The classifier against numbers recorded from the official one, for the same weights."""

import json
import re

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.optim import param_groups_weight_decay

from lvt_d2.checkpoint.official import TABLES, convert_official
from lvt_d2.modeling.mix_token import Box, BoxSampler

TOLERANCE = 2e-5
SIZES = ("s0_224x224", "s1_224x224", "s0_64x96", "s1_97x131", "s0_65x64")


@pytest.fixture(scope="module")
def weights(goldens, synth):
    keys = json.loads((goldens / "official/keys_cls.json").read_text())
    return {name: torch.as_tensor(array) for name, array in synth.state_dict(keys).items()}


@pytest.fixture(scope="module")
def classifier(weights):
    model = timm.create_model("lvt_cls")
    model.load_state_dict(weights)  # official names
    return model.eval()


@pytest.fixture(scope="module")
def recorded(goldens):
    return np.load(goldens / "official/cls.npz")


@pytest.fixture(scope="module")
def facts(goldens):
    return json.loads((goldens / "official/cls.json").read_text())


@pytest.mark.parametrize("size", SIZES)
def test_logits_and_features(classifier, recorded, synth, size):
    seed, height, width = map(int, re.findall(r"\d+", size))
    expected = recorded[f"logits_{size}"]
    image = torch.from_numpy(synth.normal(seed, (len(expected), 3, height, width)))
    with torch.no_grad():
        tokens, maps = classifier.forward_intermediates(image)
        assert np.abs(classifier(image).numpy() - expected).max() <= TOLERANCE
        assert np.abs(classifier.forward_head(tokens).numpy() - expected).max() <= TOLERANCE
    for i, feature in enumerate(maps):
        if f"feat{i + 1}_{size}" in recorded:
            assert np.abs(feature.numpy() - recorded[f"feat{i + 1}_{size}"]).max() <= TOLERANCE


def test_outputs_of_the_class_attention(classifier, goldens, synth):
    recorded = np.load(goldens / "official/cls_debug_64x64_s0.npz")
    outputs = {}
    hooks = [
        module.register_forward_hook(lambda _, args, out, name=name: outputs.update({name: out}))
        for name, module in classifier.named_modules()
    ]
    with torch.no_grad():
        outputs["logits"] = classifier(torch.from_numpy(synth.normal(0, (1, 3, 64, 64))))
    for hook in hooks:
        hook.remove()
    compared = [key for key in recorded if not key.startswith("backbone.")]
    for key in compared:
        name = key.partition("#")[0].replace("post_network", "class_blocks")
        assert np.abs(outputs[name].numpy() - recorded[key]).max() <= TOLERANCE, key
    assert len(compared) == 8


def check_gradients(model, weights, norms):
    """Norms of the gradients by official names, each within 1e-3."""
    names = convert_official(weights).names
    parameters = dict(model.named_parameters())
    assert set(norms) == set(names)
    for official, norm in norms.items():
        found = parameters[names[official]].grad.norm().item()
        assert found == pytest.approx(norm, rel=1e-3, abs=1e-7), official


def test_gradients_in_evaluation(classifier, weights, facts, synth):
    record = facts["grad_eval"]
    classifier.zero_grad()
    loss = classifier(torch.from_numpy(synth.normal(record["seed"], record["shape"]))).square()
    loss.mean().backward()
    assert loss.mean().item() == pytest.approx(record["loss"], rel=1e-5)
    check_gradients(classifier, weights, record["norms"])


def test_training_with_mixed_tokens(classifier, weights, recorded, facts, synth):
    record = facts["train"]
    image = torch.from_numpy(synth.normal(record["seed"], record["shape"]))
    classifier.zero_grad()
    classes, tokens, box = classifier.train().forward_train(image, Box(*record["box"]))
    classifier.eval()
    assert np.abs(classes.detach().numpy() - recorded["train_cls"]).max() <= TOLERANCE
    assert np.abs(tokens.detach().numpy() - recorded["train_aux"]).max() <= TOLERANCE
    assert list(box) == record["box"] and box.area == 12
    # The recorded loss, written down: soft-target cross entropies, the class target mixed by area.
    target = torch.from_numpy(synth.token_targets(100 + record["seed"], 2, 1000, tokens.shape[1]))
    share = 1 - box.area / tokens.shape[1]
    mixed = share * target[:, :, 1] + (1 - share) * target[:, :, 1].flip(0)
    dense = target[:, :, 2:].transpose(1, 2).flatten(0, 1)
    loss = F.cross_entropy(classes, mixed) + 0.5 * F.cross_entropy(tokens.flatten(0, 1), dense)
    assert loss.item() == pytest.approx(facts["grad_train"]["loss"], abs=1e-4)
    loss.backward()
    check_gradients(classifier, weights, facts["grad_train"]["norms"])


def test_boxes(recorded):
    for seed, _, *box in recorded["rand_bbox_56x56_scale8"]:
        assert BoxSampler(int(seed))(7, 7) == tuple(box)


def test_weight_decay_groups(classifier, goldens):
    record = json.loads((goldens / "official/clsextra.json").read_text())
    ours = {name: entry.name for name, entry in TABLES["classifier"]().items()}
    skip = classifier.no_weight_decay()
    groups = param_groups_weight_decay(classifier, 0.05, no_weight_decay_list=skip)
    names = {id(parameter): name for name, parameter in classifier.named_parameters()}
    for group, kind in zip(groups, ("no_decay", "decay"), strict=True):
        assert group["weight_decay"] == (0.05 if kind == "decay" else 0)
        found = {names[id(parameter)] for parameter in group["params"]}
        assert found == {ours[name] for name in record[kind]}


@pytest.mark.parametrize("size", ["300x400", "500x333", "231x260", "120x90"])
def test_evaluation_transform(classifier, goldens, synth, size):
    expected = np.load(goldens / "official/clsextra.npz")[f"evaltf_{size}_sub4"]
    height, width = map(int, size.split("x"))
    image = Image.fromarray(synth.image_u8(height, height, width, 16))
    record = json.loads((goldens / "official/clsextra.json").read_text())["data_config"]
    config = resolve_model_data_config(classifier)
    assert {name: config[name] for name in record} == {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
    }
    actual = create_transform(**config)(image)[:, ::4, ::4].numpy()
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= 1e-5
