import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.solver import get_default_optimizer_params
from omegaconf import ListConfig, OmegaConf
from torch import nn

from lvt_d2.engine.optimizer import RateFactors, make_settings_plain


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("head.weight", 0.5),
        ("head.box.weight", 0.1),
        ("head.box", 0.1),
        ("head.boxes.weight", 0.5),
        ("heads.weight", 1.0),
        ("neck.head.weight", 1.0),
        ("", 1.0),
    ],
)
def test_longest_part_wins(name, factor):
    for factors in ({"head": 0.5, "head.box": 0.1}, {"head.box": 0.1, "head": 0.5}):
        assert RateFactors(factors)(name) == factor
        assert RateFactors(OmegaConf.create(dict(factors)))(name) == factor


def test_rates_of_detectron2s_groups():
    part = nn.ModuleDict({"box": nn.Linear(2, 2), "mask": nn.Linear(2, 2)})
    model = nn.ModuleDict({"head": part, "headless": nn.Linear(2, 2)})
    groups = get_default_optimizer_params(
        model, base_lr=0.2, lr_factor_func=RateFactors({"head": 0.5, "head.box": 0.0})
    )
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        expected = 0.0 if ".box" in name else 0.1 if "head." in name else 0.2
        assert rates[id(parameter)] == pytest.approx(expected), name
    assert len(rates) == 6


def test_settings_are_plain_and_saved_as_such(tmp_path):
    model = nn.Linear(2, 1)
    config = OmegaConf.create({"betas": [0.8, 0.9]})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.3)
    # What older versions of PyTorch leave there, whatever this one does.
    optimizer.defaults["betas"] = optimizer.param_groups[0]["betas"] = config.betas
    assert make_settings_plain(optimizer) is optimizer
    for settings in (optimizer.defaults, optimizer.param_groups[0]):
        assert settings["betas"] == (0.8, 0.9) and type(settings["betas"]) is tuple
        assert settings["lr"] == 0.1 and settings["weight_decay"] == 0.3
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "o.pth")
    assert torch.load(tmp_path / "o.pth", weights_only=True)["param_groups"][0]["betas"]


def test_settings_of_a_config():
    config = LazyCall(torch.optim.AdamW)(
        params=LazyCall(get_default_optimizer_params)(), lr=0.1, betas=(0.8, 0.9)
    )
    config.params.model = nn.Linear(2, 1)
    optimizer = make_settings_plain(instantiate(config))
    for settings in (optimizer.defaults, *optimizer.param_groups):
        assert not any(isinstance(value, ListConfig) for value in settings.values())
        assert settings["betas"] == (0.8, 0.9)
