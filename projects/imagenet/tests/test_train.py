"""The training tool, end to end on a handful of images."""

import math
import shutil

import pytest
import torch
from lvt_imagenet.token_labels import LabelMap, save_official

from lvt_d2.checkpoint import LVTCheckpointer, read_checkpoint
from lvt_d2.modeling import LVT

PUBLISHED = ("--model-kwargs", "depths=[2,2,2,2]")  # in place of the small LVT of other tests
MODEL = ("--model", "test_resnet.r160_in1k", "--model-kwargs", "drop_rate=0")


def numbers(rows, *names):
    return [[float(row[name]) for name in names] for row in rows]


def test_writes_what_it_says(run, tmp_path, images):
    rows = run(tmp_path, "--tensorboard", "--ema", "--ema-decay", 0.5, "--keep", 1)
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert all(math.isfinite(value) for row in rows for value in map(float, row.values()))
    assert rows[0]["lr"] == "0.001" and float(rows[1]["lr"]) == pytest.approx(5e-4, rel=0.02)
    assert (tmp_path / "log.txt").exists() and list(tmp_path.glob("events.out.tfevents*"))
    assert len(list(tmp_path.glob("epoch-*.pth"))) == 1

    last, best = read_checkpoint(tmp_path / "last.pth"), read_checkpoint(tmp_path / "best.pth")
    assert last["classes"] == best["classes"] == ["bird", "cat", "dog"]
    assert last["progress"]["epoch"] == 2 and last["settings"]["data"] == str(images)
    top1 = max(max(pair) for pair in numbers(rows, "top1", "ema_top1"))
    assert last["store"]["best"] == top1
    assert max(best["metrics"]["top1"], best["metrics"]["ema_top1"]) == top1
    assert set(last) >= {"model", "ema", "optimizer", "scaler"} and "optimizer" not in best


def test_learns(run, tmp_path):
    rows = run(tmp_path, *MODEL, "--epochs", 4, "--no-augment", "--batch-size", 8)
    losses = [loss for (loss,) in numbers(rows, "train_loss")]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    "words",
    [
        ("--mixup", 0.8, "--cutmix", 1.0),
        ("--clip-grad", 1, "--opt", "sgd", "--opt-eps", "none"),
        ("--amp", "bfloat16", "--channels-last", "--grad-checkpointing"),
        ("--amp", "float16", "--clip-grad", 1),
        ("--sched", "step", "--decay-epochs", 1, "--sched-on-updates"),
        ("--layer-decay", 0.7, "--model-kwargs", "drop_rate=0.1", "--drop-path-rate", 0.1),
        ("--model", "lvt", *PUBLISHED, "--sched", "none", "--reprob", 1, "--remode", "const"),
        ("--in-chans", 1, "--num-classes", 5, "--img-size", 32, 64),
        ("--val-split", "none"),
    ],
    ids=lambda words: words[0],
)
def test_options_run(run, tmp_path, words):
    (row,) = run(tmp_path, "--epochs", 1, *words)
    assert 0 < float(row["train_loss"]) < 10
    assert bool(row["top1"]) == ("--val-split" not in words)


@pytest.mark.slow
def test_compiled_training_has_the_same_losses(run, tmp_path):
    words = ("--epochs", 1, "--no-augment")
    (plain,), (compiled,) = run(tmp_path / "a", *words), run(tmp_path / "b", *words, "--compile")
    assert float(plain["train_loss"]) == pytest.approx(float(compiled["train_loss"]), abs=1e-4)


def test_accumulated_gradients_are_those_of_the_large_batch(run, tmp_path):
    large = run(tmp_path / "a", "--batch-size", 8)
    small = run(tmp_path / "b", "--batch-size", 4, "--grad-accum-steps", 2)
    names = ("train_loss", "loss")
    for a, b in zip(numbers(large, *names), numbers(small, *names), strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_runs_are_repeatable_whatever_the_workers(run, tmp_path):
    names = ("train_loss", "loss", "top1")
    one = run(tmp_path / "a", "--mixup", 0.5)
    two = run(tmp_path / "b", "--mixup", 0.5, "--workers", 2)
    other = run(tmp_path / "c", "--mixup", 0.5, "--seed", 1)
    assert numbers(one, *names) == numbers(two, *names) != numbers(other, *names)


@pytest.fixture(scope="module")
def labels(images, tmp_path_factory):
    """Label maps that say what the folders say."""
    root = tmp_path_factory.mktemp("labels")
    for number, name in enumerate(("bird", "cat", "dog")):
        indices = torch.tensor([number, (number + 1) % 3]).view(2, 1, 1).expand(2, 6, 6).numpy()
        scores = torch.tensor([9.0, 1.0]).view(2, 1, 1).expand(2, 6, 6).numpy()
        for path in (images / "train" / name).glob("*.png"):
            save_official(root, name, path.stem, LabelMap(scores, indices), 3)
    return root


def test_token_labels(run, tmp_path, labels):
    words = ("--token-labels", labels, "--img-size", 96, "--batch-size", 8)
    rows = run(tmp_path / "a", *words)
    again = run(tmp_path / "b", *words, "--workers", 1)
    assert numbers(rows, "train_loss", "loss") == numbers(again, "train_loss", "loss")
    unmixed = run(tmp_path / "c", *words, "--no-mix-token")
    assert numbers(rows, "train_loss") != numbers(unmixed, "train_loss")


def refused(run, capsys, tmp_path, status, *words, told, **where):
    run(tmp_path / "out", *words, status=status, **where)
    error = capsys.readouterr().err
    assert told in error and "Traceback" not in error, error


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--model", "lvt_clss"), "did you mean lvt_cls"),
        (("--model-kwargs", "dropp=1"), "lvt_cls can't be made"),
        (("--opt", "adamx"), "The optimizer 'adamx' can't be made"),
        (("--model", "lvt", *PUBLISHED, "--token-labels", "x"), "no labels of tokens"),
        (("--token-labels", "x", "--img-size", 48), "multiples of 32"),
        (("--device", "cuda"), "has no GPU"),
        (("--num-classes", 2), "the data set has 3 classes"),
    ],
    ids=str,
)
def test_wrong_settings_end_with_status_2(run, capsys, tmp_path, words, told):
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    refused(run, capsys, tmp_path, 2, *words, told=told)


def test_wrong_data_ends_with_status_1(run, capsys, tmp_path, labels):
    told = "does not exist"
    refused(run, capsys, tmp_path, 1, data=tmp_path / "none", told=told)
    words = ("--token-labels", tmp_path / "none")
    refused(run, capsys, tmp_path, 1, *words, told=told)
    incomplete = shutil.copytree(labels, tmp_path / "labels")
    next(incomplete.glob("cat/*.pt")).unlink()
    words = ("--token-labels", incomplete, "--img-size", 64)
    refused(run, capsys, tmp_path, 1, *words, told="do not exist, but the image is")


def test_output_must_be_a_folder_to_write_to(run, capsys, tmp_path):
    (tmp_path / "out").touch()
    refused(run, capsys, tmp_path, 2, told="Nothing can be written to the output folder")


def test_output_of_another_training_is_not_overwritten(run, capsys, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "last.pth").touch()
    refused(run, capsys, tmp_path, 2, told="holds a training already")


def test_diverging_loss_ends_the_training_before_it_is_saved(run, capsys, tmp_path):
    words = (*MODEL, "--opt", "sgd", "--lr", 1e30, "--opt-eps", "none")
    refused(run, capsys, tmp_path, 1, *words, told="The loss became")
    assert not (tmp_path / "out" / "last.pth").exists()


def test_wandb_must_be_installed(run, capsys, tmp_path):
    try:
        import wandb  # noqa: F401
    except ImportError:
        refused(run, capsys, tmp_path, 2, "--wandb", "project", told="pip install wandb")


def test_fine_tuning_on_other_classes(run, tmp_path, write, trained, caplog):
    data = tmp_path / "data"
    write(data / "train", {"ant": 4, "bee": 4, "fly": 4, "wasp": 4})
    write(data / "val", {"ant": 1, "wasp": 1})
    start = ("--init-checkpoint", trained / "best.pth", "--img-size", 64, *PUBLISHED)
    run(tmp_path / "out", *start, "--lr", 0, "--epochs", 1, data=data)
    before = read_checkpoint(trained / "best.pth")["model"]
    after = read_checkpoint(tmp_path / "out" / "last.pth")["model"]
    assert after["head.weight"].shape == (4, 256) and after["aux_head.bias"].shape == (4,)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in set(before) - same} == {"head", "aux_head"}


def test_heads_stay_where_the_classes_are_the_same_and_go_where_only_their_number_is(
    run, tmp_path, write, trained
):
    start = ("--init-checkpoint", trained / "best.pth", *PUBLISHED, "--lr", 0, "--epochs", 1)
    run(tmp_path / "same", *start)
    before = read_checkpoint(trained / "best.pth")["model"]
    after = read_checkpoint(tmp_path / "same" / "last.pth")["model"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    data = tmp_path / "data"
    write(data / "train", {"x": 4, "y": 4, "z": 4})
    run(tmp_path / "other", *start, "--val-split", "none", data=data)
    after = read_checkpoint(tmp_path / "other" / "last.pth")["model"]
    assert not torch.equal(before["head.weight"], after["head.weight"])
    assert torch.equal(before["cls_token"], after["cls_token"])


def test_checkpoints_of_other_models_can_not_start_one(run, capsys, tmp_path, trained):
    start = ("--init-checkpoint", trained / "best.pth", *MODEL)
    refused(run, capsys, tmp_path, 1, *start, told="can't start this")
    start = ("--init-checkpoint", trained / "best.pth", *PUBLISHED, "--init-ema")
    refused(run, capsys, tmp_path, 1, *start, told="has no averaged weights")
    start = ("--init-checkpoint", tmp_path / "none.pth")
    refused(run, capsys, tmp_path, 1, *start, told="does not exist")


def test_trained_backbone_goes_into_detectron2_models(trained):
    """All 148 tensors of the backbone, from the file as it is."""
    for name in ("best.pth", "last.pth"):
        torch.manual_seed(1)
        backbone = LVT()
        LVTCheckpointer(backbone).load(str(trained / name))
        state = read_checkpoint(trained / name)["model"]
        own = backbone.state_dict()
        assert len(own) == 148
        assert all(torch.equal(own[key], state[f"backbone.{key}"]) for key in own)
