"""Checkpoints are whole or absent, and the last good one is found whatever happened since."""

import builtins
import errno
import logging
import os
import resource
import subprocess
import sys

import pytest
import torch
from torch import nn

import lvt_d2
from lvt_d2.checkpoint import AtomicCheckpointer, LVTCheckpointer, WeightsCheckpointer
from lvt_d2.checkpoint.saving import replacing
from lvt_d2.errors import CheckpointError


class Counter:
    """A checkpointable."""

    def __init__(self):
        self.count = 0

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def checkpointer(folder, value=0.0, size=1000):
    model = nn.Linear(size, 1)
    nn.init.constant_(model.weight, value)
    return LVTCheckpointer(model, str(folder), trainer=Counter())


def save(folder, number):
    saver = checkpointer(folder, float(number))
    saver.checkpointables["trainer"].count = number
    saver.save(f"model_{number}", iteration=number)


def resumed(folder):
    """Number of the checkpoint that a new run goes on from; None if from none."""
    loader = checkpointer(folder, -1.0)
    loader.resume_or_load("", resume=True)
    if loader.resumed_from is None:
        assert (loader.model.weight == -1).all()
        return None
    number = loader.checkpointables["trainer"].count
    assert (loader.model.weight == number).all()
    assert loader.resumed_from == os.path.join(folder, f"model_{number}.pth")
    return number


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_save_and_resume(tmp_path):
    assert resumed(tmp_path) is None
    save(tmp_path, 1)
    save(tmp_path, 2)
    assert resumed(tmp_path) == 2
    assert names(tmp_path) == ["last_checkpoint", "model_1.pth", "model_2.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_2.pth"
    content = torch.load(tmp_path / "model_2.pth", weights_only=True)
    assert content["iteration"] == 2 and content["lvt_d2"] == {"engine": lvt_d2.ENGINE}


def test_only_the_main_process_writes(tmp_path):
    LVTCheckpointer(nn.Linear(1, 1), str(tmp_path), save_to_disk=False).save("a")
    LVTCheckpointer(nn.Linear(1, 1)).save("a")
    assert names(tmp_path) == []


def test_files_are_synced_before_and_after_they_are_renamed(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor):
        done.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    def rename(source, target):
        done.append(f"{os.path.basename(source)} -> {os.path.basename(target)}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    save(tmp_path, 1)
    folder = tmp_path.name
    assert done == [
        ".unfinished", ".unfinished -> model_1.pth", folder,
        ".unfinished", ".unfinished -> last_checkpoint", folder,
    ]  # fmt: skip


@pytest.mark.parametrize("damage", ["cut", "empty", "zeros", "missing"])
def test_a_torn_file_is_passed_over(tmp_path, damage, caplog):
    for number in (1, 2, 3):
        save(tmp_path, number)
        os.utime(tmp_path / f"model_{number}.pth", (number, number))
    path = tmp_path / "model_3.pth"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        cut = {"cut": content[: len(content) // 2], "empty": b"", "zeros": bytes(len(content))}
        path.write_bytes(cut[damage])
    with caplog.at_level(logging.WARNING):
        assert resumed(tmp_path) == 2
    assert "Not resumed from" in caplog.text and "model_3.pth" in caplog.text


@pytest.mark.parametrize("text", ["", "model_99.pth", "\0\0\0", None])
def test_a_torn_or_lost_last_checkpoint(tmp_path, text):
    for number in (1, 2):
        save(tmp_path, number)
        os.utime(tmp_path / f"model_{number}.pth", (number, number))
    tag = tmp_path / "last_checkpoint"
    tag.unlink() if text is None else tag.write_text(text)
    assert resumed(tmp_path) == 2


def test_nothing_can_be_read(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "model_1.pth").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"None of the checkpoints.*\(model_1\.pth\)"):
        resumed(tmp_path)


def test_a_checkpoint_of_another_model_is_no_torn_one(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="does not fit"):
        checkpointer(tmp_path, size=7).resume_or_load("", resume=True)


def test_weights_to_keep_are_not_resumed_from(tmp_path):
    WeightsCheckpointer(nn.Linear(1000, 1), str(tmp_path)).save("model_best", iteration=5)
    assert names(tmp_path) == ["model_best.pth"]
    assert resumed(tmp_path) is None, "it has no trainer"
    save(tmp_path, 1)
    WeightsCheckpointer(nn.Linear(1000, 1), str(tmp_path)).save("model_best", iteration=6)
    (tmp_path / "last_checkpoint").unlink()
    assert resumed(tmp_path) == 1


class FullDisk:
    """Opens files that take so many bytes, then none."""

    def __init__(self, room, number=errno.ENOSPC):
        self.room, self.number = room, number
        self.open = builtins.open

    def __call__(self, path, mode="r", *arguments, **keywords):
        file = self.open(path, mode, *arguments, **keywords)
        if "w" in mode and os.path.basename(path) == ".unfinished":
            write = file.write

            def limited(data):
                self.room -= len(data)
                if self.room < 0:
                    raise OSError(self.number, os.strerror(self.number))
                return write(data)

            wrapper = type("File", (), {"write": staticmethod(limited)})()
            for name in ("flush", "fileno", "close"):
                setattr(wrapper, name, getattr(file, name))
            type(wrapper).__enter__ = lambda self: self
            type(wrapper).__exit__ = lambda self, *error: file.close()
            return wrapper
        return file


@pytest.mark.parametrize("room", [0, 500, 3000, 5000])
def test_full_disk(tmp_path, monkeypatch, room):
    save(tmp_path, 1)
    before = (tmp_path / "model_1.pth").read_bytes()
    monkeypatch.setattr(builtins, "open", FullDisk(room))
    with pytest.raises(CheckpointError) as error:
        save(tmp_path, 2)
    monkeypatch.undo()
    for word in ("model_2.pth", "No space left on device", "MiB are free", "intact", "--resume"):
        assert word in str(error.value)
    assert (tmp_path / "model_1.pth").read_bytes() == before
    assert names(tmp_path) == ["last_checkpoint", "model_1.pth"]
    assert resumed(tmp_path) == 1


def test_full_disk_for_the_name_alone(tmp_path, monkeypatch):
    save(tmp_path, 1)
    size = os.path.getsize(tmp_path / "model_1.pth")
    monkeypatch.setattr(builtins, "open", FullDisk(size + 5))
    with pytest.raises(CheckpointError, match="last_checkpoint could not be written"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert resumed(tmp_path) == 1
    save(tmp_path, 2)
    assert resumed(tmp_path) == 2


LIMITED = """
import resource, sys
sys.path.insert(0, sys.argv[2])
import lvt_d2
from tests.checkpoint.test_saving import save
import pathlib
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
save(pathlib.Path(sys.argv[1]), 2)
"""


def test_a_limit_of_the_system_itself(tmp_path, request):
    save(tmp_path, 1)
    assert os.path.getsize(tmp_path / "model_1.pth") > 3000 and resource.RLIMIT_FSIZE
    command = [sys.executable, "-c", LIMITED, str(tmp_path), str(request.config.rootpath)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "CheckpointError" in done.stderr and "File too large" in done.stderr
    assert names(tmp_path) == ["last_checkpoint", "model_1.pth"]
    assert resumed(tmp_path) == 1


@pytest.mark.skipif(not os.access("/proc/self/fd", os.R_OK), reason="needs Linux's /proc")
def test_a_folder_that_refuses_files(monkeypatch):
    """Not even root can make files there, unlike in a folder without permission bits."""
    monkeypatch.setattr("lvt_d2.checkpoint.saving.torch.save", lambda *_: pytest.fail("opened"))
    with pytest.raises(CheckpointError, match="/proc/self/model_1.pth could not be written"):
        checkpointer("/proc/self").save("model_1")


def test_read_only_folder(tmp_path, monkeypatch):
    save(tmp_path, 1)
    real = builtins.open

    def refuse(path, mode="r", *arguments, **keywords):
        if "w" in mode:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return real(path, mode, *arguments, **keywords)

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(CheckpointError, match="Read-only file system.*intact"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert resumed(tmp_path) == 1


def test_other_errors_of_saving_stay_what_they_are(tmp_path):
    (tmp_path / "a").write_text("before")
    with pytest.raises(RuntimeError, match="bug"), replacing(str(tmp_path / "a")) as file:
        file.write(b"after")
        raise RuntimeError("bug")
    assert (tmp_path / "a").read_text() == "before"


def test_averaged_weights(tmp_path):
    model, averaged = nn.Linear(2, 1), nn.Module()
    averaged.module = nn.Linear(2, 1)
    LVTCheckpointer(model, str(tmp_path), ema=averaged).save("a")
    path = str(tmp_path / "a.pth")
    for loader, query, expected in (
        (LVTCheckpointer(nn.Linear(2, 1)), "", model),
        (LVTCheckpointer(nn.Linear(2, 1), averaged=True), "", averaged.module),
        (LVTCheckpointer(nn.Linear(2, 1)), "?ema=True", averaged.module),
    ):
        loader.load(path + query)
        assert torch.equal(loader.model.weight, expected.weight)


def test_remote_folders_are_detectron2s(monkeypatch):
    saved = []
    saver = AtomicCheckpointer(nn.Linear(1, 1), "store://bucket/run")
    monkeypatch.setattr(
        "fvcore.common.checkpoint.Checkpointer.save", lambda self, name, **more: saved.append(name)
    )
    saver.save("model_1")
    assert saved == ["model_1"]
