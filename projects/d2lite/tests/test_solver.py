import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.solver import (
    LRMultiplier,
    WarmupCosineLR,
    WarmupMultiStepLR,
    WarmupParamScheduler,
    build_lr_scheduler,
    build_optimizer,
    get_default_optimizer_params,
)
from detectron2.solver.build import (
    GradientClipType,
    _generate_optimizer_class_with_gradient_clipping,
    maybe_add_gradient_clipping,
    reduce_param_groups,
)
from fvcore.common.param_scheduler import (
    ConstantParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
)
from torch import nn


def _rates(optimizer, scheduler, count):
    rates = []
    for i in range(count):
        if i:
            optimizer.step()
            scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def _sgd(lr=5.0):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


def _warmup(i, iters, factor, method="linear"):
    if i >= iters:
        return 1.0
    return factor if method == "constant" else factor * (1 - i / iters) + i / iters


def test_multistep_with_warmup_matches_its_formula():
    optimizer = _sgd()
    multiplier = WarmupParamScheduler(
        MultiStepParamScheduler([1, 0.1, 0.01, 0.001], milestones=[10, 15, 20], num_updates=30),
        0.001,
        5 / 30,
    )
    rates = _rates(optimizer, LRMultiplier(optimizer, multiplier, max_iter=30), 30)
    drops = [sum(i >= m for m in (10, 15, 20)) for i in range(30)]
    expected = [5 * _warmup(i, 5, 0.001) * 0.1 ** drops[i] for i in range(30)]
    assert rates == pytest.approx(expected)


def test_cosine_under_warmup_matches_its_formula():
    optimizer = _sgd()
    multiplier = WarmupParamScheduler(CosineParamScheduler(1, 0), 0.001, 5 / 30)
    rates = _rates(optimizer, LRMultiplier(optimizer, multiplier, max_iter=30), 30)

    def cosine(i):
        return 0.5 * (1 + math.cos(math.pi * i / 30))

    # the warm-up is a line to the cosine's value at its end
    warm = [0.001 + (cosine(5) - 0.001) * i / 5 for i in range(5)]
    assert rates == pytest.approx([5 * x for x in [*warm, *map(cosine, range(5, 30))]])


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("method", ["linear", "constant"])
def test_warmup_options(rescale, method):
    line = LinearParamScheduler(1.0, 0.0)
    schedule = WarmupParamScheduler(line, 0.1, 0.25, method, rescale)
    end = 1.0 if rescale else 0.75
    for where in (0.0, 0.1, 0.2):
        ramp = 0.1 + (end - 0.1) * where / 0.25
        assert schedule(where) == pytest.approx(0.1 if method == "constant" else ramp)
    for where in (0.3, 0.5, 0.9):
        expected = 1 - (where - 0.25) / 0.75 if rescale else 1 - where
        assert schedule(where) == pytest.approx(expected)


def test_unknown_warmup_method():
    with pytest.raises(ValueError, match="Unknown warmup method: sudden"):
        WarmupParamScheduler(ConstantParamScheduler(1), 0.1, 0.1, "sudden")


def test_multiplier_wants_an_fvcore_schedule():
    with pytest.raises(ValueError, match="ParamScheduler"):
        LRMultiplier(_sgd(), lambda where: 1.0, max_iter=10)


def test_multiplier_keeps_the_ratio_of_groups():
    params = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": params[:1], "lr": 1.0}, {"params": params[1:]}], lr=0.5)
    LRMultiplier(optimizer, ConstantParamScheduler(0.1), max_iter=10)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.1, 0.05])


def test_multiplier_state_is_plain_and_resumes():
    def fresh(last_iter=-1, initial=None):
        optimizer = _sgd()
        if initial is not None:
            optimizer.load_state_dict(initial)
        schedule = LinearParamScheduler(1, 0)
        return optimizer, LRMultiplier(optimizer, schedule, max_iter=10, last_iter=last_iter)

    optimizer, scheduler = fresh()
    straight = _rates(optimizer, scheduler, 10)
    optimizer, scheduler = fresh()
    _rates(optimizer, scheduler, 5)
    assert set(scheduler.state_dict()) == {"base_lrs", "last_epoch"}
    assert scheduler.state_dict()["last_epoch"] == 4
    resumed, scheduler = fresh(last_iter=3, initial=optimizer.state_dict())
    assert _rates(resumed, scheduler, 6) == pytest.approx(straight[4:])
    resumed, other = fresh()
    other.load_state_dict({"base_lrs": [5.0], "last_epoch": 4})
    resumed.step()
    other.step()
    assert resumed.param_groups[0]["lr"] == pytest.approx(straight[5])


def test_old_multistep():
    optimizer = _sgd()
    scheduler = WarmupMultiStepLR(optimizer, [4, 6], 0.5, 0.1, 3)
    expected = [5 * _warmup(i, 3, 0.1) * 0.5 ** ((i >= 4) + (i >= 6)) for i in range(8)]
    assert _rates(optimizer, scheduler, 8) == pytest.approx(expected)
    with pytest.raises(ValueError, match="increasing"):
        WarmupMultiStepLR(_sgd(), [6, 4])


def test_old_cosine():
    optimizer = _sgd()
    scheduler = WarmupCosineLR(optimizer, 10, 0.1, 3, "constant")
    expected = [
        5 * _warmup(i, 3, 0.1, "constant") * 0.5 * (1 + math.cos(math.pi * i / 10))
        for i in range(10)
    ]
    assert _rates(optimizer, scheduler, 10) == pytest.approx(expected)
    with pytest.raises(ValueError, match="sudden"):
        WarmupCosineLR(_sgd(), 10, warmup_method="sudden")


class _Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.GroupNorm(2, 4)
        self.batch_norm = NaiveSyncBatchNorm(4)
        self.linear = nn.Linear(4, 2)
        self.shared = self.linear
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(1))


def _settings(model, groups):
    """Parameter name -> the settings of its group."""
    names = {param: name for name, param in model.named_parameters()}
    found = {}
    for group in groups:
        for param in group["params"]:
            assert names[param] not in found, "a parameter twice"
            found[names[param]] = {k: v for k, v in group.items() if k != "params"}
    return found


def test_default_params_are_all_trainable_ones_in_one_group():
    model = _Model()
    groups = get_default_optimizer_params(model)
    assert len(groups) == 1 and set(groups[0]) == {"params"}
    found = _settings(model, groups)
    assert set(found) == {n for n, p in model.named_parameters() if p.requires_grad}


def test_params_with_every_option():
    model = _Model()
    groups = get_default_optimizer_params(
        model,
        base_lr=0.1,
        weight_decay=0.01,
        weight_decay_norm=0.0,
        bias_lr_factor=2.0,
        weight_decay_bias=0.5,
        lr_factor_func=lambda name: 0.1 if name.startswith("linear.") else 1.0,
        overrides={"scale": {"lr": 7.0, "momentum": 0.3}},
    )
    found = _settings(model, groups)
    plain, biased = {"lr": 0.1, "weight_decay": 0.01}, {"lr": 0.2, "weight_decay": 0.5}
    assert found["conv.weight"] == plain
    assert found["conv.bias"] == found["norm.bias"] == found["linear.bias"] == biased
    assert found["norm.weight"] == found["batch_norm.weight"] == {"lr": 0.1, "weight_decay": 0.0}
    assert found["linear.weight"] == pytest.approx({"lr": 0.01, "weight_decay": 0.01})
    assert found["scale"] == {"lr": 7.0, "weight_decay": 0.01, "momentum": 0.3}
    assert len(groups) == 5


def test_params_name_of_the_factor_function():
    names = []
    get_default_optimizer_params(_Model(), base_lr=1, lr_factor_func=lambda n: names.append(n) or 1)
    assert ".scale" in names and "conv.weight" in names and "shared.weight" not in names


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bias_lr_factor": 2.0}, "bias_lr_factor requires base_lr"),
        ({"lr_factor_func": lambda name: 1}, "lr_factor_func requires base_lr"),
        ({"weight_decay_bias": 0.0, "overrides": {"bias": {}}}, "Conflicting overrides"),
    ],
)
def test_params_contradictions(options, text):
    with pytest.raises(ValueError, match=text):
        get_default_optimizer_params(_Model(), **options)


def test_reduce_param_groups():
    a, b, c, d = (nn.Parameter(torch.zeros(1)) for _ in range(4))
    groups = [
        {"params": [a], "lr": 1.0},
        {"params": [b, c], "lr": 2.0},
        {"params": [d], "lr": 1.0},
        {"params": [c], "lr": 1.0},  # the later one wins
    ]
    found = reduce_param_groups(groups)
    assert [g["lr"] for g in found] == [1.0, 2.0]
    assert [id(p) for p in found[0]["params"]] == [id(a), id(c), id(d)]
    assert found[1]["params"] == [b]
    named = reduce_param_groups(
        [{"params": [a, b], "param_names": ["a", "b"], "lr": 1}, {"params": [b], "lr": 1}]
    )
    assert named == [{"params": [a, b], "param_names": ["a", "b"], "lr": 1}]


@pytest.fixture
def cfg():
    return get_cfg()


def test_build_optimizer(cfg):
    cfg.SOLVER.BASE_LR, cfg.SOLVER.BIAS_LR_FACTOR = 0.1, 2.0
    cfg.SOLVER.WEIGHT_DECAY_NORM, cfg.SOLVER.NESTEROV = 0.25, True
    model = _Model()
    optimizer = build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.SGD)
    found = _settings(model, optimizer.param_groups)
    assert found["conv.bias"]["lr"] == 0.2 and found["conv.weight"]["lr"] == 0.1
    assert found["norm.weight"]["weight_decay"] == 0.25
    assert found["conv.weight"]["weight_decay"] == cfg.SOLVER.WEIGHT_DECAY
    assert found["conv.weight"]["nesterov"] and found["conv.weight"]["momentum"] == 0.9


@pytest.mark.parametrize(
    "name", ["WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"]
)
def test_build_lr_scheduler(cfg, name):
    s = cfg.SOLVER
    s.LR_SCHEDULER_NAME, s.MAX_ITER, s.WARMUP_ITERS, s.WARMUP_FACTOR = name, 20, 4, 0.01
    s.STEPS, s.GAMMA, s.NUM_DECAYS, s.BASE_LR_END, s.BASE_LR = (8, 12, 99), 0.1, 4, 0.5, 5.0
    optimizer = _sgd()
    rates = _rates(optimizer, build_lr_scheduler(cfg, optimizer), 20)

    def plain(i):
        if name == "WarmupMultiStepLR":
            return 0.1 ** ((i >= 8) + (i >= 12))
        if name == "WarmupCosineLR":
            return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * i / 20))
        return 0.1 ** (i // 4)  # four drops cut 20 iterations into five parts

    warm = [0.01 + (plain(4) - 0.01) * i / 4 for i in range(4)]
    assert rates == pytest.approx([5 * x for x in [*warm, *map(plain, range(4, 20))]])


def test_build_lr_scheduler_unknown(cfg):
    cfg.SOLVER.LR_SCHEDULER_NAME = "Sawtooth"
    with pytest.raises(ValueError, match="Unknown LR scheduler: Sawtooth"):
        build_lr_scheduler(cfg, _sgd())


def _step_with(cfg, gradients, as_instance):
    params = [nn.Parameter(torch.zeros(len(g))) for g in gradients]
    if as_instance:
        optimizer = torch.optim.SGD(params, lr=1.0)
        assert maybe_add_gradient_clipping(cfg, optimizer) is optimizer
    else:
        optimizer = maybe_add_gradient_clipping(cfg, torch.optim.SGD)(params, lr=1.0)
    assert isinstance(optimizer, torch.optim.SGD)
    for param, gradient in zip(params, gradients, strict=True):
        param.grad = torch.tensor(gradient)
    optimizer.step()
    return [(-p.detach()).tolist() for p in params], type(optimizer).__name__


@pytest.mark.parametrize("as_instance", [True, False])
def test_gradient_clipping(cfg, as_instance):
    clip = cfg.SOLVER.CLIP_GRADIENTS
    assert maybe_add_gradient_clipping(cfg, torch.optim.SGD) is torch.optim.SGD
    clip.ENABLED, clip.CLIP_VALUE, clip.CLIP_TYPE = True, 1.0, "value"
    gradients = [[0.5, -3.0], [3.0, 4.0]]
    steps, name = _step_with(cfg, gradients, as_instance)
    assert steps == [[0.5, -1.0], [1.0, 1.0]]
    assert name == "SGDWithGradientClip"
    clip.CLIP_TYPE, clip.NORM_TYPE = "norm", 2.0
    steps, _ = _step_with(cfg, gradients, as_instance)  # every parameter has its own norm
    assert steps[1] == pytest.approx([0.6, 0.8], abs=1e-5)
    assert math.hypot(*steps[0]) == pytest.approx(1.0, abs=1e-5)
    clip.CLIP_TYPE = "nothing"
    with pytest.raises(ValueError):
        maybe_add_gradient_clipping(cfg, torch.optim.SGD)


def test_global_clipping():
    kind = _generate_optimizer_class_with_gradient_clipping(
        torch.optim.SGD, global_clipper=lambda params: nn.utils.clip_grad_norm_(list(params), 1.0)
    )
    params = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = kind(params, lr=1.0)
    params[0].grad, params[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    optimizer.step()
    assert [-p.item() for p in params] == pytest.approx([0.6, 0.8], abs=1e-5)
    with pytest.raises(AssertionError):
        _generate_optimizer_class_with_gradient_clipping(
            torch.optim.SGD, per_param_clipper=print, global_clipper=print
        )
    assert GradientClipType("value") is GradientClipType.VALUE
