"""Settings: YAML files and the command line agree, and what has no meaning is refused."""

import json

import pytest
import torch
import yaml
from lvt_imagenet.options import ALL
from lvt_imagenet.settings import DEFAULTS, read_settings

from lvt_d2.errors import ConfigError, ConfigFileNotFoundError


def read(*words):
    return read_settings([str(word) for word in words], "Summary.\n\nDetails.")


def test_every_option_has_a_published_value_and_the_other_way_round():
    assert set(yaml.safe_load(DEFAULTS.read_text())) == set(ALL)


def test_published_recipe():
    s = read("data")
    assert (s.model, s.img_size, s.epochs, s.batch_size) == ("lvt_cls", [224], 300, 128)
    assert (s.opt, s.lr, s.weight_decay, s.min_lr) == ("adamw", 1.6e-3, 0.05, 1e-5)
    assert (s.warmup_epochs, s.warmup_lr, s.cooldown_epochs) == (20, 1e-6, 10)
    assert (s.auto_augment, s.reprob, s.smoothing) == ("rand-m9-mstd0.5-inc1", 0.25, 0.1)
    assert (s.dense_weight, s.cls_weight, s.crop_pct) == (0.5, 1.0, 0.96)
    assert s.drop_path_rate == 0 and not s.ema


def test_file_goes_before_defaults_and_options_before_the_file(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("lr: 1e-4\nepochs: 70\nema: true\nscale: [0.5, 1]\n")
    s = read("data", "--config", file, "--epochs", 30, "--no-ema")
    assert (s.data, s.lr, s.epochs, s.ema, s.scale) == ("data", 1e-4, 30, False, [0.5, 1.0])


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--img-size", "64"], "img_size", [64]),
        (["--img-size", "64", "96"], "img_size", [64, 96]),
        (["--auto-augment", "none"], "auto_augment", None),
        (["--mean", "none"], "mean", None),
        (["--mean", "0.5", "0.4", "0.3"], "mean", [0.5, 0.4, 0.3]),
        (["--ema"], "ema", True),
        (["--no-tensorboard"], "tensorboard", False),
        (["--min-lr", "1e-6"], "min_lr", 1e-6),
        (["--model-kwargs", "a=1", "b=[1, 2]", "c=x"], "model_kwargs",
         {"a": 1, "b": [1, 2], "c": "x"}),
    ],
)  # fmt: skip
def test_values_of_the_command_line(words, name, value):
    assert getattr(read("data", *words), name) == value


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--weight-dacay", "0"], "did you mean --weight-decay"),
        (["--weight_decay", "0"], "did you mean --weight-decay"),
        (["--epoch", "3"], "did you mean --epochs"),
        (["more"], "no word more"),
        (["--lr", "fast"], "--lr is 'fast'; expected a number, 0 or more"),
        (["--lr", "-1"], "--lr"),
        (["--lr"], "--lr"),
        (["--epochs", "1.5"], "--epochs is '1.5'; expected a whole number, 1 or more"),
        (["--amp", "fp16"], "one of none, float16, bfloat16"),
        (["--scale", "0.1"], "--scale is ['0.1']; expected 2 values"),
        (["--mean", "1", "2"], "expected 1 or 3 values, or none"),
        (["--model-kwargs", "x"], "name=value"),
        (["--reprob", "1.5"], "0 to 1"),
        (["--batch-size", "7", "--mixup", "0.8"], "give an even number"),
        (["--batch-size", "7", "--cutmix", "1"], "give an even number"),
        (["--batch-size", "7", "--token-labels", "labels"], "give an even number"),
        (["--mixup", "0.8", "--token-labels", "labels"], "set both to 0"),
        (["--warmup-epochs", "20", "--epochs", "5"], "more than epochs (5)"),
        (["--output", ""], "output is empty"),
    ],
)
def test_refused_on_the_command_line(words, told, train, capsys):
    with pytest.raises(ConfigError, match=".") as refusal:
        read("data", *words)
    assert told in str(refusal.value)
    assert train.main(["data", *words]) == 2
    assert told in capsys.readouterr().err


def test_odd_batches_are_fine_unmixed():
    assert read("data", "--batch-size", "7").batch_size == 7
    assert not read("d", "--batch-size", 7, "--token-labels", "x", "--no-mix-token").mix_token


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("learning_rate: 1", "sets 'learning_rate', which is no setting"),
        ("weight_dacay: 1", "did you mean weight_decay"),
        ("lr: fast", "lr of"),
        ("ema: 1", "ema of"),
        ("- lr", "holds no settings"),
        ("lr: [", "is no YAML"),
        ("", "holds no settings"),
    ],
)
def test_refused_in_a_file(text, told, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as refusal:
        read("data", "--config", file)
    assert told in str(refusal.value)


def test_missing_file_names_its_neighbours():
    with pytest.raises(ConfigFileNotFoundError, match=r"lvt_imagenet\.yaml"):
        read("data", "--config", DEFAULTS.parent / "none.yaml")


def test_help_tells_every_option(train, capsys):
    with pytest.raises(SystemExit) as ended:
        train.main(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(f"--{name.replace('_', '-')}" in text for name in ALL)


@pytest.fixture(scope="module")
def documented(goldens):
    return json.loads((goldens / "official" / "clsextra.json").read_text())


def test_rate_of_every_epoch_is_the_published_one(documented):
    from lvt_imagenet.training import create_schedule

    settings = read("data")
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=settings.lr)
    schedule, epochs = create_schedule(settings, optimizer, updates=1251)
    assert epochs == documented["num_epochs"] == 310
    for epoch, rate in documented["lr_at_epoch"].items():
        schedule.step(int(epoch))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate, rel=1e-9), epoch


def test_weight_decay_is_the_published_one(documented):
    import timm
    from lvt_imagenet.training import create_optimizer

    from lvt_d2.checkpoint.official import TABLES

    settings = read("data")
    model = timm.create_model("lvt_cls")
    optimizer = create_optimizer(settings, model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    table = TABLES["classifier"]()
    ours = {key: {table[name].name for name in documented[key]} for key in ("decay", "no_decay")}
    # The rows of CSA's nine matrices stand in one tensor there and in another here.
    assert {name for name, decay in found.items() if decay == 0.05} == ours["decay"]
    assert {name for name, decay in found.items() if decay == 0} == ours["no_decay"]
    assert optimizer.defaults["betas"] == tuple(documented["opt_defaults"]["betas"])
    assert optimizer.defaults["eps"] == documented["opt_defaults"]["eps"]
