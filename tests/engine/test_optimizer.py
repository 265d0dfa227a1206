import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.solver import get_default_optimizer_params
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler
from omegaconf import ListConfig, OmegaConf
from torch import nn

from lvt_d2.engine.optimizer import DecayedWarmup, get_params_by_name, make_settings_plain
from lvt_d2.errors import ConfigError


def small_model() -> nn.ModuleDict:
    body = nn.ModuleDict({"linear": nn.Linear(2, 2), "norm1": nn.LayerNorm(2)})
    head = nn.ModuleDict({"linear": nn.Linear(2, 2), "norm": nn.BatchNorm1d(2)})
    return nn.ModuleDict({"body": body, "head": head})


RULES = {"norm": {"weight_decay": 0.0}, "head.": {"lr_factor": 10.0}}


@pytest.mark.parametrize("rules", [RULES, dict(reversed(RULES.items())), OmegaConf.create(RULES)])
def test_longest_rule_wins(rules):
    model = small_model()
    groups = get_params_by_name(model, base_lr=0.2, rules=rules)
    optimizer = torch.optim.AdamW(groups, lr=0.2, weight_decay=0.3)
    settings = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        group = settings.pop(id(parameter))
        assert group["lr"] == pytest.approx(2.0 if name.startswith("head") else 0.2), name
        assert group["weight_decay"] == (0.0 if name.startswith("body.norm") else 0.3), name
    assert not settings and len(optimizer.param_groups) == 3


def test_frozen_parameters_are_left_out_and_shared_ones_once():
    model = small_model()
    model["body"].requires_grad_(False)
    model["head"]["again"] = model["head"]["linear"]
    groups = get_params_by_name(model, base_lr=0.2, rules=RULES)
    assert [len(group["params"]) for group in groups] == [4]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            {"neck": {"lr_factor": 2.0}},
            "name neck, which occurs in .* the model's parts are body, head",
        ),
        ({"body": {"lr": 2.0}}, "rule for 'body' sets lr; expected lr_factor and weight_decay"),
    ],
)
def test_rules_without_effect_are_refused(rules, message):
    with pytest.raises(ConfigError, match=message):
        get_params_by_name(small_model(), base_lr=0.2, rules=rules)


def test_decayed_warmup():
    schedule = PolynomialDecayParamScheduler(base_value=2.0, power=1.0)
    warm = DecayedWarmup(schedule, warmup_factor=0.1, warmup_length=0.2)
    assert warm(0.0) == pytest.approx(0.2)
    assert warm(0.1) == pytest.approx(0.55 * 1.8)
    assert warm(0.2) == warm.scheduler(0.2) and warm(0.9) == pytest.approx(0.2)
    assert DecayedWarmup(schedule, 0.1, warmup_length=0.0)(0.0) == 2.0


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
