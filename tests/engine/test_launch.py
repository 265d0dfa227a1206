import argparse
import os
import re
import sys

import pytest
import torch

from lvt_d2.engine import check_devices, launch, under_torchrun
from lvt_d2.errors import ConfigError, DatasetError

TORCHRUN = {
    "RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}


def _args(**changes):
    values = {"num_gpus": 0, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}
    return argparse.Namespace(**{**values, **changes})


def test_processes_to_start(monkeypatch):
    assert check_devices(0, "cpu") == 1
    assert check_devices(3, "cpu") == 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert check_devices(2, "cuda") == 2
    with pytest.raises(ConfigError, match=r"asks for 4 GPUs.* finds 2 .*--num-gpus 2"):
        check_devices(4, "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"asks for 1 GPU,.* finds 0 .*--num-gpus 0"):
        check_devices(1, "cuda")
    with pytest.raises(ConfigError, match="--num-gpus is -2"):
        check_devices(-2, "cpu")
    with pytest.raises(ConfigError, match="train.device is 'tpu'"):
        check_devices(1, "tpu")


def test_runs_here_when_alone():
    seen = []
    assert launch(seen.append, _args(), "cpu") == 0
    assert seen == [_args()]


def _bad_data(args):
    raise DatasetError("image 7.jpg is broken")


def _bug(args):
    raise ZeroDivisionError


def test_exit_status(capsys):
    assert launch(_bad_data, _args(), "cpu") == 1
    assert capsys.readouterr().err == "\nDatasetError: image 7.jpg is broken\n"
    with pytest.raises(ZeroDivisionError):
        launch(_bug, _args(), "cpu")
    assert launch(_bad_data, _args(num_machines=2), "cpu") == 2
    assert "--dist-url" in capsys.readouterr().err
    assert launch(lambda args: sys.exit(5), _args(), "cpu") == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_machines": 0}, "--num-machines is 0; expected 1 or more"),
        ({"num_machines": 2, "machine_rank": 2}, "--machine-rank is 2,.* ranks from 0 to 1"),
        ({"machine_rank": 1}, "--machine-rank is 1,"),
        ({"num_machines": 2, "machine_rank": -1}, "--machine-rank is -1,"),
        ({"num_machines": 2}, "needs --dist-url tcp://ADDRESS:PORT"),
        ({"dist_url": "127.0.0.1"}, "--dist-url is '127.0.0.1'; expected tcp://ADDRESS:PORT"),
        ({"dist_url": "127.0.0.1:29500"}, "--dist-url is"),
        ({"dist_url": "tcp://127.0.0.1"}, "--dist-url is"),
        ({"dist_url": "tcp://127.0.0.1:123456"}, "--dist-url is"),
        ({"dist_url": "http://127.0.0.1:80"}, "--dist-url is"),
        ({"dist_url": ""}, "--dist-url is ''"),
    ],
)
def test_machines_that_can_not_meet(changes, words, capsys):
    assert launch(_bug, _args(**changes), "cpu") == 2
    assert re.search(words, capsys.readouterr().err)


@pytest.mark.parametrize("url", ["auto", "tcp://[::1]:1234", "file:///tmp/meet", "env://"])
def test_places_to_meet(url):
    assert launch(lambda args: None, _args(dist_url=url), "cpu") == 0


def test_gpus_are_hidden_from_processes_on_the_cpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    seen = []
    launch(lambda args: seen.append(os.environ["CUDA_VISIBLE_DEVICES"]), _args(), "cpu")
    assert seen == [""] and os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    launch(lambda args: None, _args(), "cpu")
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_torchrun_environment(monkeypatch, capsys):
    assert not under_torchrun()
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert under_torchrun()
    seen = []
    assert launch(lambda args: seen.append(torch.distributed.is_initialized()), _args(), "cpu") == 0
    assert seen == [False], "one process needs no group"
    assert launch(_bad_data, _args(), "cpu") == 1
    assert launch(_bad_data, _args(num_gpus=4), "cpu") == 2
    assert "torchrun has started 1 processes" in capsys.readouterr().err
