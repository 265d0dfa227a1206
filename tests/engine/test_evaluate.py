import json
import math

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.evaluation import DatasetEvaluator
from omegaconf import DictConfig
from torch import nn

from lvt_d2.engine import evaluate
from lvt_d2.errors import ConfigError


class _Loader:
    def __init__(self, count=3, dataset=None):
        self.count = count

    def __len__(self):
        return self.count

    def __iter__(self):
        return iter([torch.full((1, 1), float(i)) for i in range(self.count)])


class _Sum(DatasetEvaluator):
    def __init__(self, name="task", fail=False):
        self.name, self.fail = name, fail

    def reset(self):
        self.total = 0.0

    def process(self, inputs, outputs):
        if self.fail:
            raise ZeroDivisionError
        self.total += outputs.item()

    def evaluate(self):
        return {self.name: {"sum": self.total, "nothing": math.nan}}


class _Model(nn.Identity):
    def forward(self, x):
        assert not self.training and not torch.is_grad_enabled()
        return x


def _config(**keys):
    return DictConfig(keys, flags={"allow_objects": True})


@pytest.mark.parametrize("training", [True, False])
def test_one_set(tmp_path, training):
    model = _Model().train(training)
    config = _config(test=L(_Loader)(), evaluator=L(_Sum)())
    results = evaluate(model, config, str(tmp_path / "out"))
    assert results["task"]["sum"] == 3 and model.training is training
    saved = json.loads((tmp_path / "out" / "results.json").read_text())
    assert saved == {"task": {"sum": 3.0, "nothing": None}}


def test_mode_is_restored_after_errors(tmp_path):
    model = _Model()
    config = _config(test=L(_Loader)(), evaluator=L(_Sum)(fail=True))
    with pytest.raises(ZeroDivisionError):
        evaluate(model, config, str(tmp_path))
    assert model.training


def test_several_evaluators_of_one_set(tmp_path):
    config = _config(test=L(_Loader)(), evaluator=[L(_Sum)(name="a"), L(_Sum)(name="b")])
    assert list(evaluate(_Model(), config, str(tmp_path))) == ["a", "b"]


def test_several_sets(tmp_path):
    config = _config(
        test=[L(_Loader)(count=2), L(_Loader)(count=4, dataset=dict(names="val"))],
        evaluator=[L(_Sum)(), L(_Sum)()],
    )
    results = evaluate(_Model(), config, str(tmp_path))
    assert {k: v["task"]["sum"] for k, v in results.items()} == {"test0": 1.0, "val": 6.0}
    config.evaluator = config.evaluator[:1]
    with pytest.raises(ConfigError, match="2 loaders.* 1 entries"):
        evaluate(_Model(), config, str(tmp_path))


def test_nothing_to_evaluate(tmp_path):
    assert evaluate(_Model(), _config(train=1), str(tmp_path)) == {}
