"""Reading of checkpoint files that nobody vouches for."""

import argparse
import collections
import datetime
import io
import logging
import pathlib
import pickle
import tarfile
import types
import zipfile

import numpy as np
import pytest
import torch

from lvt_d2.checkpoint import read_checkpoint, read_pickle
from lvt_d2.checkpoint.inert_pickle import InertPickle, StandIn
from lvt_d2.errors import CheckpointError

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.half": torch.ones(4).half()}


class ConfigDict(dict):
    """What training programs pickle into their metadata."""


class Hook:
    def __init__(self):
        self.interval = 3


class Colors(list):
    pass


class Executes:
    """An object whose unpickling leaves a trace."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def _touch(path):
    pathlib.Path(path).touch()


def _save(path, content, **kwargs):
    torch.save(content, path, **kwargs)
    return path


def _assert_weights(state):
    assert list(state) == list(WEIGHTS)
    for name, tensor in WEIGHTS.items():
        assert torch.equal(state[name], tensor) and state[name].dtype == tensor.dtype


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_plain_state_dict(tmp_path, zipped):
    path = _save(tmp_path / "w.pth", WEIGHTS, _use_new_zipfile_serialization=zipped)
    _assert_weights(read_checkpoint(path))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_harmless_metadata_is_kept(tmp_path, zipped, caplog):
    default_dict = collections.defaultdict(list)
    default_dict["k"].append(1)
    metadata = {
        "args": argparse.Namespace(lr=0.0016, name="lvt_cls", sizes=[224, 224], nested={"b": (1,)}),
        "metric": np.float64(74.8),
        "count": np.int32(7),
        "array": np.arange(6, dtype=np.int64).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">f4"),
        "text": np.array(["void", "person"]),
        "flags": np.array([True, False]),
        "random": np.random.RandomState(3).get_state(),
        "when": datetime.datetime(2022, 6, 19, 12, tzinfo=datetime.timezone.utc),
        "took": datetime.timedelta(hours=3),
        "path": pathlib.PurePosixPath("work_dirs/a"),
        "size": torch.Size([2, 3]),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "ordered": collections.OrderedDict(a=1),
        "default": default_dict,
        "counter": collections.Counter("aab"),
        "bytes": b"\x00\xff",
        "set": {1, 2},
        "frozen": frozenset({1}),
        "complex": 1 + 2j,
        "large": 2**70,
    }
    path = _save(
        tmp_path / "w.pth",
        {"state_dict": WEIGHTS, **metadata},
        _use_new_zipfile_serialization=zipped,
    )
    with caplog.at_level(logging.WARNING):
        content = read_checkpoint(path)
    assert not caplog.records
    _assert_weights(content["state_dict"])
    assert isinstance(content["args"], argparse.Namespace)
    assert vars(content["args"]) == vars(metadata["args"])
    for name in ("array", "fortran", "big_endian", "text", "flags"):
        assert content[name].dtype == metadata[name].dtype.newbyteorder("=")
        assert np.array_equal(content[name], metadata[name])
    assert np.array_equal(content["random"][1], metadata["random"][1])
    np.random.RandomState().set_state(content["random"])
    for name in metadata.keys() - {"args", "array", "fortran", "big_endian", "text", "flags"}:
        if name != "random":
            assert content[name] == metadata[name], name


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_unknown_classes_become_stand_ins(tmp_path, zipped, caplog):
    config = ConfigDict(model=ConfigDict(type="PanopticFPN"))
    content = {
        "state_dict": WEIGHTS,
        "meta": {"config": config, "hook": Hook(), "palette": Colors([1, 2]), "fn": _touch},
        "choice": types.SimpleNamespace(a=1),
    }
    path = _save(tmp_path / "w.pth", content, _use_new_zipfile_serialization=zipped)
    with caplog.at_level(logging.WARNING):
        loaded = read_checkpoint(path)
    _assert_weights(loaded["state_dict"])
    meta = loaded["meta"]
    assert isinstance(meta["config"], StandIn) and meta["config"].items[0][0] == "model"
    assert type(meta["hook"]) is not Hook and meta["hook"].interval == 3
    assert meta["palette"].items == [1, 2]
    assert "ConfigDict" in repr(meta["config"])
    assert "ConfigDict" in caplog.text and "Hook" in caplog.text and str(path) in caplog.text


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_nothing_is_executed(tmp_path, zipped):
    trace = tmp_path / "trace"
    attacks = {
        "own": Executes(_touch, str(trace)),
        "os": Executes(__import__("os").system, f"touch {trace}"),
        "eval": Executes(eval, f"open({str(trace)!r}, 'w')"),
        "exec": Executes(exec, f"open({str(trace)!r}, 'w')"),
        "open": Executes(open, str(trace), "w"),
        "run": Executes(__import__("subprocess").check_output, ["touch", str(trace)]),
        "path": Executes(pathlib.Path.touch, pathlib.Path(trace)),
    }
    for name, attack in attacks.items():
        path = tmp_path / f"{name}.pth"
        content = {"state_dict": WEIGHTS, "meta": attack}
        _save(path, content, _use_new_zipfile_serialization=zipped)
        try:
            content = read_checkpoint(path)
        except CheckpointError as error:
            assert name not in ("own", "path")
            assert "would call" in str(error) and str(path) in str(error)
        else:
            assert name in ("own", "path")
            _assert_weights(content["state_dict"])
        assert not trace.exists()


def test_pickle_can_not_change_this_process(tmp_path):
    """BUILD sets attributes of what is on the stack, also of a class or function."""
    for name in (b"argparse\nNamespace\n", b"torch._utils\n_rebuild_tensor_v2\n"):
        # GLOBAL name; (None, {"mark": 1}); BUILD; STOP
        program = b"\x80\x02c" + name + b"N}X\x04\x00\x00\x00markK\x01s\x86b."
        try:
            InertPickle().load(io.BytesIO(program))
        except pickle.UnpicklingError:
            pass
    assert not hasattr(argparse.Namespace, "mark")
    assert not hasattr(torch._utils._rebuild_tensor_v2, "mark")


def test_numpy_arrays_of_objects_are_refused(tmp_path):
    path = _save(tmp_path / "w.pth", {"a": WEIGHTS, "b": np.array([{}, None], dtype=object)})
    with pytest.raises(CheckpointError, match="array of type 'O8'"):
        read_checkpoint(path)


def test_whole_modules_have_no_weights_lost_in_silence(tmp_path, caplog):
    path = _save(tmp_path / "w.pth", torch.nn.Linear(2, 2))
    with caplog.at_level(logging.WARNING):
        assert isinstance(read_checkpoint(path), StandIn)
    assert "torch.nn.modules.linear.Linear" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>not found</html>", "web page"),
        (b"\n <html></html>", "web page"),
        (b"version https://lfs.example/spec/v1\noid sha256:0\nsize 5\n", "large-file storage"),
        (b"\x1f\x8b\x08\x00aaaa", "gzip"),
        (b'{"error": 404}', "JSON"),
        (b"no checkpoint at all", "can't be read"),
        (b"\x00" * 100, "can't be read"),
    ],
)
def test_other_files(tmp_path, content, message):
    path = tmp_path / "lvt.pth.tar"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as info:
        read_checkpoint(path)
    assert str(path) in str(info.value) and "bytes" in str(info.value)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.95])
def test_truncated_files(tmp_path, zipped, part):
    path = tmp_path / "w.pth"
    weights = {"w": torch.ones(5000)}
    _save(path, {"state_dict": weights, "args": Hook()}, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(CheckpointError, match=r"w\.pth \([\d,]+ bytes\) can't be read"):
        read_checkpoint(path)


def test_archives_of_other_kinds(tmp_path):
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"script/{name}", "")
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_checkpoint(tmp_path / "script.pt")
    with tarfile.open(tmp_path / "w.pth.tar", "w") as archive:
        _save(tmp_path / "w.pth", WEIGHTS)
        archive.add(tmp_path / "w.pth", "w.pth")
    with pytest.raises(CheckpointError, match="tar archive"):
        read_checkpoint(tmp_path / "w.pth.tar")
    np.savez(tmp_path / "a.npz", a=np.ones(3))
    with pytest.raises(CheckpointError, match=r"without PyTorch's data\.pkl"):
        read_checkpoint(tmp_path / "a.npz")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles(tmp_path, protocol):
    path = tmp_path / "m.pkl"
    content = {"model": {"w": np.arange(6.0).reshape(2, 3)}, "__author__": "me"}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    loaded = read_pickle(path)
    assert loaded["__author__"] == "me"
    assert np.array_equal(loaded["model"]["w"], content["model"]["w"])
    trace = tmp_path / "trace"
    path.write_bytes(pickle.dumps(Executes(exec, f"open({str(trace)!r}, 'w')"), protocol=protocol))
    with pytest.raises(CheckpointError, match="would call builtins.exec"):
        read_pickle(path)
    assert not trace.exists()
