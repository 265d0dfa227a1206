import contextlib
import importlib.util
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.logger import setup_logger

from lvt_d2.errors import LVTError

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools/lazyconfig_train_net.py"
CONFIG = Path(__file__).with_name("toy_config.py")
LOGGERS = ("detectron2", "fvcore", "lvt_d2")


def _environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}


def _process(folder, *arguments, launcher=(), config=CONFIG, **environment):
    """The tool as users start it."""
    command = [sys.executable, *launcher, str(TOOL), "--config-file", str(config), *arguments]
    command.append(f"train.output_dir={folder}")
    env = _environment(**environment)
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=300)


@contextlib.contextmanager
def _own_loggers():
    """Handlers that the tool adds are gone afterwards, and made anew the next time."""
    before = {name: list(logging.getLogger(name).handlers) for name in LOGGERS}
    for name in LOGGERS:
        logging.getLogger(name).handlers.clear()
    setup_logger.cache_clear()
    yield
    for name in LOGGERS:
        logging.getLogger(name).handlers[:] = before[name]
    setup_logger.cache_clear()


def _load_tool():
    spec = importlib.util.spec_from_file_location("lazyconfig_train_net", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(folder, *arguments, config=CONFIG):
    """The tool in this process, which is many times faster."""
    argv = ["--config-file", str(config), *arguments, f"train.output_dir={folder}"]
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr), _own_loggers():
        status = _load_tool().run(argv)
    return SimpleNamespace(returncode=status, stdout=stdout.getvalue(), stderr=stderr.getvalue())


def _metrics(folder):
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {row["iteration"]: row for row in rows}


def _weights(folder, name="model_final.pth"):
    return torch.load(folder / name, weights_only=True)["model"]


def _results(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder and output of one straight run in one process."""
    folder = tmp_path_factory.mktemp("straight")
    done = _process(folder, "--num-gpus", "0")
    assert done.returncode == 0, done.stderr
    return folder, done


def test_training(trained):
    folder, done = trained
    metrics = _metrics(folder)
    assert {4, 9, 14, 19, 20} <= set(metrics)
    assert {"loss_a", "loss_b", "total_loss", "lr", "data_time", "time"} <= set(metrics[19])
    assert metrics[4]["total_loss"] > 2 * metrics[19]["total_loss"]
    assert metrics[9]["sums/error"] > metrics[20]["sums/error"], "evaluated on the way too"
    assert metrics[20]["sums/count"] == 10
    names = {p.name for p in folder.iterdir()}
    assert {"config.yaml", "log.txt", "model_0000009.pth", "model_final.pth"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)


def test_results_and_tables(trained):
    folder, done = trained
    results = _results(folder)["sums"]
    assert results["count"] == 10 and results["undefined"] is None
    assert results["error"] == pytest.approx(_metrics(folder)[20]["sums/error"])
    assert "copypaste: Task: sums" in done.stdout, "Detectron2's csv lines"


def test_progress_lines(trained):
    _, done = trained
    lines = [line for line in done.stdout.splitlines() if " iter " in line and "total_loss" in line]
    assert len(lines) == 4
    assert "iter 10/20 (50%)" in lines[1]
    for word in ("loss_a", "loss_b", "lr ", "it/s", "left 0:00:0"):
        assert word in lines[1]
    assert "\r" not in done.stderr, "no bar where there is no terminal"
    assert "FutureWarning" not in done.stderr and "No CUDA runtime" not in done.stderr


def test_eval_only(trained, tmp_path):
    folder, _ = trained
    done = _run(
        tmp_path,
        "--num-gpus",
        "0",
        "--eval-only",
        f"train.init_checkpoint={folder / 'model_final.pth'}",
    )
    assert done.returncode == 0, done.stderr
    assert _results(tmp_path) == _results(folder)
    assert "copypaste: Task: sums" in done.stdout
    assert not (tmp_path / "metrics.json").exists()


def test_resume(trained, tmp_path):
    folder, _ = trained
    options = ("--num-gpus", "0")
    # The same schedule, cut off at iteration 12.
    stop = _run(tmp_path, *options, "dataloader.train.poison_at=12")
    assert stop.returncode == 1
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000009.pth"
    done = _run(tmp_path, *options, "--resume")
    assert done.returncode == 0, done.stderr
    assert "Starting training from iteration 10" in done.stdout
    rows = _metrics(tmp_path)
    assert rows[19]["lr"] == pytest.approx(_metrics(folder)[19]["lr"])
    assert max(rows) == 20
    again = _run(tmp_path, *options, "--resume")  # nothing is left to do but to evaluate
    assert again.returncode == 0, again.stderr
    for name, value in _weights(tmp_path).items():
        assert torch.isfinite(value).all(), name


@pytest.mark.parametrize("start", ["launch", "torchrun"])
def test_two_processes_on_cpu(trained, tmp_path, start):
    folder, _ = trained
    if start == "launch":
        done = _process(tmp_path, "--num-gpus", "2", "train.device=cpu")
    else:
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
        done = _process(tmp_path, "--num-gpus", "0", launcher=torchrun)
    assert done.returncode == 0, done.stderr
    assert "World size: 2" in done.stdout
    for name, value in _weights(folder).items():
        assert torch.allclose(value, _weights(tmp_path)[name], atol=1e-6), name
    alone, both = _metrics(folder), _metrics(tmp_path)
    for iteration in (4, 9, 14, 19):
        assert both[iteration]["loss_a"] == pytest.approx(alone[iteration]["loss_a"], rel=1e-4)
    ours, theirs = _results(tmp_path)["sums"], _results(folder)["sums"]
    assert ours["count"] == 10, "evaluation is shared, and reported whole"
    assert ours["error"] == pytest.approx(theirs["error"], rel=1e-4)
    lines = [line for line in done.stdout.splitlines() if "total_loss" in line]
    assert len(lines) == 4, "only the main process reports"


def test_nan_in_one_of_two_processes(tmp_path):
    done = _process(
        tmp_path,
        "--num-gpus",
        "2",
        "train.device=cpu",
        "dataloader.train.poison_at=3",
        "dataloader.train.poison_rank=1",
    )
    assert done.returncode == 1
    assert done.stderr.count("NonFiniteLossError") == 1
    assert "At iteration 3 loss_a is nan, loss_b is nan" in done.stderr
    assert "images/0014.jpg, images/0015.jpg" in done.stderr and "0012" not in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not list(tmp_path.glob("*.pth"))


def test_accumulation(trained, tmp_path):
    folder, _ = trained
    options = ("dataloader.train.batch_size=2", "train.accumulate=2")
    done = _run(tmp_path, "--num-gpus", "0", *options)
    assert done.returncode == 0, done.stderr
    for name, value in _weights(folder).items():
        assert torch.allclose(value, _weights(tmp_path)[name], atol=1e-6), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_on_cpu(tmp_path, dtype):
    done = _run(tmp_path, "--num-gpus", "0", "train.amp.enabled=True", f"train.amp.dtype={dtype}")
    assert done.returncode == 0, done.stderr
    assert _results(tmp_path)["sums"]["error"] < 0.5, "1.0 before training"
    trainer = torch.load(tmp_path / "model_final.pth", weights_only=True)["trainer"]
    assert ("grad_scaler" in trainer) == (dtype == "float16")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (
            ["--num-gpus", "0", "train.max_itr=3"],
            2,
            ["train.max_itr", "train.max_iter", "+train.max_itr=3"],
        ),
        (["--num-gpus", "-1"], 2, ["--num-gpus is -1"]),
        (["--num-gpus", "99"], 2, ["--num-gpus asks for 99 GPUs", "finds", "--num-gpus"]),
        (["--num-gpus", "0", "--num-machines", "2"], 2, ["--dist-url"]),
        (["--num-gpus", "0", "train.amp.dtype=int8"], 2, ["train.amp.dtype", "'int8'", "bfloat16"]),
        (["--num-gpus", "0", "train.max_iter=0"], 2, ["train.max_iter is 0"]),
        (["--num-gpus", "1", "train.device=tpu"], 2, ["train.device is 'tpu'"]),
        (["--num-gpus", "0", "train.device=tpu"], 2, ["train.device is 'tpu'"]),
        (["--num-gpus", "0", "--num-machines", "0"], 2, ["--num-machines is 0"]),
        (["--num-gpus", "0", "--dist-url", "127.0.0.1"], 2, ["--dist-url", "tcp://ADDRESS:PORT"]),
        (["--num-gpus", "0", "--eval-only"], 2, ["--eval-only", "train.init_checkpoint=FILE"]),
        (["--num-gpus", "0", "--eval-only", "--resume"], 2, ["--eval-only --resume has no"]),
        (["--num-gpus", "0", "train.checkpointer.period=0"], 2, ["train.checkpointer.period is 0"]),
        (["--num-gpus", "0", "+model.typo=3"], 2, ["ToyModel", "'typo'", "model.typo"]),
        (["--num-gpus", "0", "+optimizer.typo=3"], 2, ["SGD", "'typo'", "optimizer.typo"]),
        (["--num-gpus", "0", "optimizer=3"], 2, ["would replace a part", "optimizer.lr"]),
        (["--num-gpus", "0", "--eval-only", "train.init_checkpoint=/none.pth"], 1, ["/none.pth"]),
    ],
)
def test_user_errors_are_one_paragraph(tmp_path, arguments, status, words):
    done = _run(tmp_path, *arguments)
    assert done.returncode == status, done.stderr
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("panoptic_lv.py", None, ["does not exist", "panoptic_lvt.py"]),
        ("broken.py", "model = (", ["broken.py", "SyntaxError"]),
        ("raises.py", "model = 1\nmodel.x", ["raises.py", "AttributeError", "line 2"]),
        (
            "partial.py",
            "model = dict(a=1)\ntrain = dict()",
            ["dataloader, optimizer, lr_multiplier"],
        ),
        ("notes.txt", "hello", ["notes.txt", ".py, .yaml"]),
    ],
)
def test_bad_config_files(tmp_path, name, content, words):
    (tmp_path / "panoptic_lvt.py").touch()
    if content is not None:
        (tmp_path / name).write_text(content)
    done = _run(tmp_path / "out", "--num-gpus", "0", config=tmp_path / name)
    assert done.returncode == 2, done.stderr
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def shapes(tmp_path):
    """Folder with the smallest set of shapes."""
    make = [sys.executable, str(ROOT / "datasets/make_shapes.py"), "--output", str(tmp_path)]
    subprocess.run([*make, "--train", "4", "--val", "1"], check=True, env=_environment())
    return tmp_path


def _train_on_shapes(folder, *arguments):
    return _process(
        folder / "out",
        "--num-gpus",
        "0",
        "dataloader.train.total_batch_size=1",
        *arguments,
        config=ROOT / "configs/quick/shapes_panoptic_lvt.py",
        DETECTRON2_DATASETS=str(folder),
    )


def test_divergence(shapes):
    done = _train_on_shapes(shapes, "dataloader.train.num_workers=0", "optimizer.lr=1e30")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stderr.startswith("\nNonFiniteLossError: At iteration ")
    assert f"{shapes}/shapes/train/0" in done.stderr and "a lower optimizer.lr" in done.stderr


@pytest.mark.parametrize("workers", [0, 1])
def test_truncated_images(shapes, workers):
    for image in (shapes / "shapes").rglob("*.jpg"):
        image.write_bytes(image.read_bytes()[:1000])
    done = _train_on_shapes(shapes, f"dataloader.train.num_workers={workers}")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stderr.startswith("\nDatasetError: the image ")
    assert "can't be decoded" in done.stderr and done.stderr.count("\n") == 2


def test_bugs_keep_their_traceback(tmp_path):
    with pytest.raises(RuntimeError, match="stack") as error:  # of no images at all
        _run(tmp_path, "--num-gpus", "0", "dataloader.train.batch_size=0")
    assert not isinstance(error.value, LVTError)


def test_output_folder_that_can_not_be(tmp_path):
    (tmp_path / "file").touch()
    done = _run(tmp_path / "file", "--num-gpus", "0")
    assert done.returncode == 2 and "train.output_dir is" in done.stderr


def test_weights_of_a_resumed_evaluation(trained, tmp_path):
    folder, _ = trained
    before = _results(folder)
    (folder / "results.json").unlink()
    done = _run(folder, "--num-gpus", "0", "--eval-only", "--resume")
    assert done.returncode == 0 and _results(folder) == before


def test_reads_its_own_config_from_any_folder(trained, tmp_path, monkeypatch):
    folder, _ = trained
    monkeypatch.chdir(tmp_path)
    done = _run(tmp_path, "--num-gpus", "0", "--resume", config=folder / "config.yaml")
    assert done.returncode == 0, done.stderr
    for name, value in _weights(folder).items():
        assert torch.equal(value, _weights(tmp_path)[name]), name


def test_interrupt_ends_quickly(tmp_path):
    command = [sys.executable, str(TOOL), "--config-file", str(CONFIG), "--num-gpus", "0"]
    command += [f"train.output_dir={tmp_path}", "train.max_iter=100000", "train.eval_period=0"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
        cwd=ROOT,
        # Started in the background, this process may have been told to ignore interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for line in process.stdout:
        if "total_loss" in line:
            break
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr and "--resume" in stderr


def test_docstring_names_every_key_that_is_read():
    text = TOOL.read_text()
    docstring, code = text.split('"""', 2)[1:]
    code += (ROOT / "lvt_d2/engine/training.py").read_text()
    for key in set(re.findall(r"cfg\.(?:train|dataloader|optimizer)\.([a-z_]+)", code)):
        assert key in docstring, key
