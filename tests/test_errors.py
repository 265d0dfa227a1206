import pickle

import pytest
from torch.utils.data import DataLoader

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


class _Broken:
    def __init__(self, kind):
        self.kind = kind

    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise OSError("errno 5")
        except OSError as error:
            raise self.kind("image 7.jpg: it can't be decoded; unpack it again") from error


@pytest.mark.parametrize("kind", [errors.DatasetError, errors.DatasetFileNotFoundError])
def test_loader_workers_leave_the_text_as_it_is(kind):
    with pytest.raises(kind) as caught:
        next(iter(DataLoader(_Broken(kind), num_workers=1)))
    assert "Traceback" in caught.value.args[0], "it came from a worker"
    assert str(caught.value) == "image 7.jpg: it can't be decoded; unpack it again"


def test_texts_that_look_like_a_loaders():
    assert str(errors.LVTError("Caught a fish")) == "Caught a fish"
