import pickle

import pytest

from lvt_d2 import errors


@pytest.mark.parametrize(
    ("kind", "parents", "status"),
    [
        (errors.ConfigError, (ValueError,), 2),
        (errors.ConfigFileNotFoundError, (errors.ConfigError, FileNotFoundError), 2),
        (errors.DatasetError, (ValueError,), 1),
        (errors.DatasetFileNotFoundError, (errors.DatasetError, FileNotFoundError), 1),
        (errors.CheckpointError, (ValueError,), 1),
        (errors.CheckpointFileNotFoundError, (errors.CheckpointError, FileNotFoundError), 1),
        (errors.NonFiniteLossError, (FloatingPointError,), 1),
    ],
)
def test_what_they_can_be_caught_as(kind, parents, status):
    error = pickle.loads(pickle.dumps(kind("what, found, expected, remedy")))
    assert str(error) == "what, found, expected, remedy"
    assert error.exit_status == status
    for parent in (errors.LVTError, RuntimeError, *parents):
        assert isinstance(error, parent)
