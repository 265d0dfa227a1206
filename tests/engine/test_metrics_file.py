import json

import pytest
from detectron2.utils.events import EventStorage, JSONWriter

from lvt_d2.engine import MetricsFile
from lvt_d2.errors import LVTError


def _write(writer, iterations, period=2):
    with EventStorage() as storage:
        for storage.iter in iterations:
            storage.put_scalar("loss", 1.0 / (storage.iter + 1))
            storage.put_scalar("lr", 0.1, smoothing_hint=False)
            if storage.iter == 4:
                storage.put_scalar("task/score", 5, smoothing_hint=False)
            if (storage.iter + 1) % period == 0:
                writer.write()
        writer.close()


def _iterations(path):
    return [json.loads(line)["iteration"] for line in path.read_text().splitlines()]


def test_writes_what_detectron2_writes(tmp_path):
    _write(MetricsFile(str(tmp_path / "ours")), range(9))
    _write(JSONWriter(str(tmp_path / "theirs")), range(9))
    assert (tmp_path / "ours").read_text() == (tmp_path / "theirs").read_text()
    assert _iterations(tmp_path / "ours") == [1, 3, 4, 5, 7]


def test_resuming_cuts_what_is_done_again(tmp_path):
    path, straight = tmp_path / "a", tmp_path / "b"
    _write(MetricsFile(str(straight)), range(9))
    _write(MetricsFile(str(path)), range(8))
    with path.open("a") as file:
        file.write('{"iteration": 9, "lo')  # torn by a crash
    writer = MetricsFile(str(path), resume_iter=4)
    assert _iterations(path) == [1, 3]
    _write(writer, range(4, 9))
    assert _iterations(path) == _iterations(straight)


def test_nothing_that_is_in_the_file_is_written_again(tmp_path):
    path = tmp_path / "a"
    _write(MetricsFile(str(path)), range(4))
    with EventStorage(4) as storage:
        storage.put_scalar("loss", 0.25, cur_iter=3)  # history, restored
        writer = MetricsFile(str(path), resume_iter=4)
        writer.write()
        assert _iterations(path) == [1, 3]
        storage.put_scalar("loss", 0.25, cur_iter=4)
        writer.write()
    assert _iterations(path) == [1, 3, 4]


def test_a_new_training_appends(tmp_path):
    path = tmp_path / "a"
    _write(MetricsFile(str(path)), range(4))
    _write(MetricsFile(str(path)), range(2))
    assert _iterations(path) == [1, 3, 1]
    MetricsFile(str(path), resume_iter=2).close()
    assert _iterations(path) == [1, 3, 1], "only the end is cut"
    MetricsFile(str(path), resume_iter=0).close()
    assert path.read_bytes() == b""


def test_unwritable_files(tmp_path):
    with pytest.raises(LVTError, match="metrics.json could not be written: No such file"):
        MetricsFile(str(tmp_path / "absent" / "metrics.json"))
    writer = MetricsFile("/dev/full")
    with pytest.raises(LVTError, match="/dev/full could not be written: No space left"):
        _write(writer, range(2))
