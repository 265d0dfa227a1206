"""Seeds, environment modules, loggers, files, pickling, memory, test helpers and analysis."""

import logging
import os
import pickle
import random
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.utils import env, logger, memory
from detectron2.utils.file_io import PathManager
from detectron2.utils.serialize import PicklableWrapper
from torch import nn


@pytest.fixture
def keep_random_state():
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    hash_seed = os.environ.get("PYTHONHASHSEED")
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    os.environ.pop("PYTHONHASHSEED", None)
    if hash_seed is not None:
        os.environ["PYTHONHASHSEED"] = hash_seed


def test_seed_all_rng(keep_random_state, caplog):
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    env.seed_all_rng(7)
    first = draw()
    env.seed_all_rng(7)
    assert draw() == first and os.environ["PYTHONHASHSEED"] == "7"
    with caplog.at_level("INFO"):
        env.seed_all_rng()
    assert draw() != first and "Using a generated random seed" in caplog.text


def test_torch_version():
    assert env.TORCH_VERSION == tuple(int(x) for x in torch.__version__.split(".")[:2])


def test_custom_environment_module(tmp_path):
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(
        f"def setup_environment():\n    open({str(tmp_path / 'ran')!r}, 'a').write('x')"
    )
    bad.write_text("x = 1")
    env.setup_custom_environment(str(good))
    assert (tmp_path / "ran").read_text() == "x"
    with pytest.raises(AssertionError, match="setup_environment"):
        env.setup_custom_environment(str(bad))
    environment = os.environ | {"DETECTRON2_ENV_MODULE": "good", "PYTHONPATH": str(tmp_path)}
    code = "import lvt_d2, detectron2; from detectron2.utils.env import setup_environment as s; s()"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert (tmp_path / "ran").read_text() == "xx"


# ---------------------------------------------------------------- logging


@pytest.fixture
def fresh():
    names = []

    def make(name):
        names.append(name)
        return name

    yield make
    for name in names:
        logging.getLogger(name).handlers.clear()
    logger.setup_logger.cache_clear()


def test_setup_logger(tmp_path, capsys, fresh):
    name = fresh("lite_test")
    made = logger.setup_logger(str(tmp_path), name=name, abbrev_name="lt")
    assert logger.setup_logger(str(tmp_path), name=name, abbrev_name="lt") is made
    assert len(made.handlers) == 2 and made.level == logging.DEBUG and not made.propagate
    logging.getLogger("lite_test.part").warning("careful")
    made.info("calm")
    shown = capsys.readouterr().out
    assert "lt.part" in shown and "WARNING" in shown and "careful" in shown and "calm" in shown
    written = (tmp_path / "log.txt").read_text().splitlines()
    # Standard output's abbreviation of the name reaches the file, whose handler runs later.
    assert re.fullmatch(r"\[\d\d/\d\d \d\d:\d\d:\d\d\] lt.part WARNING: careful", written[0])
    assert "INFO: calm" in written[1]


def test_logger_of_other_ranks(tmp_path, capsys, fresh):
    made = logger.setup_logger(
        str(tmp_path / "deep" / "x.log"), distributed_rank=1, name=fresh("lite_rank")
    )
    made.info("hello")
    assert capsys.readouterr().out == ""
    assert "hello" in (tmp_path / "deep" / "x.log.rank1").read_text()


def test_logger_options(capsys, fresh):
    plain = logger.setup_logger(name=fresh("lite_plain"), color=False, enable_propagation=True)
    plain.error("bad")
    assert "lite_plain ERROR: bad" in capsys.readouterr().out and plain.propagate
    silent = logger.setup_logger(name=fresh("lite_silent"), configure_stdout=False)
    assert silent.handlers == []


def test_log_now_and_then(caplog, monkeypatch):
    def texts():
        found = [r.getMessage() for r in caplog.records]
        caplog.clear()
        return found

    with caplog.at_level("INFO"):
        for k in range(4):
            logger.log_first_n(logging.INFO, f"a{k}", 2)
        assert texts() == ["a0", "a1"]
        for k in range(4):
            logger.log_first_n(logging.INFO, f"b{k % 2}", key="message")
        assert texts() == ["b0", "b1"]
        for k in range(4):
            logger.log_first_n(logging.INFO, f"c{k % 2}", key=("caller", "message"), name="mine")
        assert caplog.records[0].name == "mine" and texts() == ["c0", "c1"]
        for k in range(5):
            logger.log_every_n(logging.INFO, f"d{k}", 2)
        assert caplog.records[0].name == __name__ and texts() == ["d0", "d2", "d4"]
        for k in range(2):
            logger.log_every_n(logging.INFO, f"e{k}")
        assert texts() == ["e0", "e1"]
        now = iter([0.0, 1.0, 5.0])
        monkeypatch.setattr(logger, "time", SimpleNamespace(time=lambda: next(now)))
        for k in range(3):
            logger.log_every_n_seconds(logging.INFO, f"f{k}", 5)
        assert texts() == ["f0", "f2"]


def test_create_small_table():
    lines = logger.create_small_table({"AP": 0.12345, "name": "x"}).splitlines()
    assert len(lines) == 3 and "AP" in lines[0] and "0.123" in lines[2]
    assert logger.create_small_table({}) == ""


# ---------------------------------------------------------------- files, pickles, memory


def test_path_manager(tmp_path):
    with PathManager.open(str(tmp_path / "a"), "w") as f:
        f.write("x")
    assert PathManager.isfile(str(tmp_path / "a"))
    assert not PathManager.exists("detectron2://model.pkl")
    for call in (PathManager.open, PathManager.get_local_path):
        with pytest.raises(FileNotFoundError, match="doesn't fetch"):
            call("detectron2://model.pkl")


def test_picklable_wrapper():
    offset = 3
    wrapped = PicklableWrapper(PicklableWrapper(lambda x: x + offset))
    assert not isinstance(wrapped._obj, PicklableWrapper)
    again = pickle.loads(pickle.dumps(wrapped))
    assert wrapped(1) == again(1) == 4 and wrapped.__name__ == "<lambda>"
    with pytest.raises(AttributeError):
        getattr(wrapped, "nope")  # noqa: B009


def test_retry_if_cuda_oom():
    calls = []

    @memory.retry_if_cuda_oom
    def function(x, *, fail):
        """Documented."""
        calls.append(x)
        if len(calls) <= fail:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return x

    assert function(1, fail=0) == 1 and len(calls) == 1
    calls.clear()
    assert function([torch.ones(1)], fail=2) == calls[0] and len(calls) == 3
    calls.clear()
    with pytest.raises(RuntimeError, match="out of memory"):
        function(1, fail=3)
    assert function.__doc__ == "Documented."

    @memory.retry_if_cuda_oom
    def other():
        calls.append(0)
        raise RuntimeError("something else")

    calls.clear()
    with pytest.raises(RuntimeError, match="something else"):
        other()
    assert len(calls) == 1


# ---------------------------------------------------------------- reports and counts


def test_collect_env_info():
    from detectron2.utils.collect_env import collect_env_info

    text = collect_env_info()
    for words in ("sys.platform", "PyTorch ", "d2lite", "GPU available", "torchvision", "Pillow"):
        assert words in text


def test_random_boxes_and_allclose():
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.testing import assert_instances_allclose, random_boxes

    boxes = random_boxes(50, 20)
    assert boxes.shape == (50, 4) and boxes.max() < 21 and (boxes[:, 2:] > boxes[:, :2]).all()
    assert random_boxes(0).shape == (0, 4)

    def make(size=(5, 6), shift=0.0, **fields):
        return Instances(size, pred_boxes=Boxes(boxes + shift), scores=boxes[:, 0] / 9, **fields)

    assert_instances_allclose(make(), make(shift=1e-4))
    for other, words in [
        (make(size=(6, 6)), "image_size"),
        (make(shift=0.1), "Field pred_boxes"),
        (make(pred_classes=torch.zeros(50)), "Fields are"),
    ]:
        with pytest.raises(AssertionError, match=f"mine.*{words}"):
            assert_instances_allclose(make(), other, msg="mine")
    labels = [torch.zeros(50, dtype=torch.int64), torch.ones(50, dtype=torch.int64)]
    with pytest.raises(AssertionError, match="labels is different"):
        assert_instances_allclose(make(labels=labels[0]), make(labels=labels[1]))
    empty = Instances((1, 1), scores=torch.zeros(0))
    assert_instances_allclose(empty, empty, size_as_tensor=True)


class TinyDetector(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.unused = nn.Linear(2, 2)

    def forward(self, inputs):
        maps = self.norm(self.conv(inputs[0]["image"][None]))
        return {"loss": maps.mean()} if self.training else [{"sem_seg": maps[0]}]


def test_analysis():
    from detectron2.utils import analysis

    model = TinyDetector()
    inputs = [{"image": torch.rand(3, 8, 10), "height": 16, "file_name": "x"}]
    flops = analysis.FlopCountAnalysis(model.eval(), inputs)
    multiply_adds = 8 * 10 * 3 * 4 * 9
    assert flops.by_operator()["conv"] == flops.by_module()["model.conv"] == multiply_adds
    model.train()
    assert dict(analysis.flop_count_operators(model, inputs)) == {"conv": multiply_adds / 1e9}
    assert analysis.activation_count_operators(model, inputs)["conv"] == 320 / 1e6
    assert model.training
    with pytest.raises(AssertionError, match="batch size=1"):
        analysis.flop_count_operators(model, inputs * 2)
    assert analysis.parameter_count(model)[""] == 108 + 8 + 6
    assert "unused" in analysis.parameter_count_table(model)
    assert analysis.find_unused_parameters(model, inputs) == ["unused.weight", "unused.bias"]
    assert all(p.grad is None for p in model.parameters())
