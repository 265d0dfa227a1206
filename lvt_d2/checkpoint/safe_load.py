"""Reads checkpoint files of any origin without running what they contain."""

import logging
import os
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from lvt_d2.checkpoint.inert_pickle import InertPickle
from lvt_d2.errors import CheckpointError, CheckpointFileNotFoundError

logger = logging.getLogger(__name__)

_NOT_CHECKPOINTS = (  # what the first bytes of a failed download look like
    (b"<", "is a web page (or XML)"),
    (b"version http", "is a pointer to a file in large-file storage"),
    (b"\x1f\x8b", "is compressed with gzip"),
    (b"{", "is JSON text"),
)


def read_checkpoint(path: str | os.PathLike) -> Any:
    """The content of a file written by ``torch.save``, on the CPU.

    PyTorch's ``weights_only`` reader is tried first. It refuses a file whole for one object of
    another class, as training programs put into their metadata; such a file is read once more with
    inert stand-ins for these objects, which are logged. Either way nothing in it is executed.

    Args:
        path: a local file, in the zip format of PyTorch 1.6 or the one before it.

    Raises:
        CheckpointFileNotFoundError: there is no such file.
        CheckpointError: the file is empty, damaged, of another format, or an attack.
    """
    path = Path(path)
    _check_format(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        logger.debug("PyTorch's weights_only reader refuses %s", path, exc_info=True)
    except Exception as error:  # torch raises anything on damaged files
        raise _unreadable(path, error) from error
    return _read_with_stand_ins(path)


def read_pickle(path: str | os.PathLike) -> Any:
    """The content of a plain pickle (``.pkl``) of dicts and numpy arrays, as Detectron's zoo has.

    Raises:
        CheckpointFileNotFoundError: there is no such file.
        CheckpointError: the file is no pickle, or not one of plain data.
    """
    path = Path(path)
    _check_exists(path)
    inert = InertPickle()
    try:
        with path.open("rb") as file:
            data = inert.load(file, encoding="latin1")  # pickles of Python 2 hold bytes as text
    except Exception as error:
        raise _unreadable(path, error) from error
    _log_stand_ins(path, inert.unknown)
    return data


def _read_with_stand_ins(path: Path) -> Any:
    inert = InertPickle()
    try:
        # Safe although not `weights_only`: all names in the file are resolved by `InertPickle`.
        data = torch.load(path, map_location="cpu", weights_only=False, pickle_module=inert)
    except Exception as error:
        raise _unreadable(path, error) from error
    _log_stand_ins(path, inert.unknown)
    return data


def _log_stand_ins(path: Path, names: set[str]) -> None:
    if names:
        logger.warning(
            "%s holds objects of classes that are not loaded from files: %s. Inert stand-ins took "
            "their places; tensors are not affected.",
            path,
            ", ".join(sorted(names)),
        )


def _check_exists(path: Path) -> None:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointFileNotFoundError(
            f"Checkpoint {path} {what}. Give the path of a checkpoint file, or an empty path to "
            "start from random weights."
        )
    if path.stat().st_size == 0:
        raise CheckpointError(
            f"Checkpoint {path} is empty (0 bytes); expected a file written by torch.save. "
            "Download or copy it again."
        )


def _check_format(path: Path) -> None:
    """Refuse what ``torch.load`` would take for something else than a pickle of tensors."""
    _check_exists(path)
    with path.open("rb") as file:
        head = file.read(64)
    for start, what in _NOT_CHECKPOINTS:
        if head.lstrip().startswith(start):
            raise CheckpointError(
                f"Checkpoint {path} ({path.stat().st_size:,} bytes) {what}, not a file written by "
                "torch.save. Download it again, and compare its size or hash with the publisher's."
            )
    if head.startswith(b"PK\x03\x04"):  # how PyTorch tells its zip format from the older one
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name.rpartition("/")[2] for name in archive.namelist()]
        except zipfile.BadZipFile as error:
            raise _unreadable(path, error) from error
        if "constants.pkl" in names:
            raise CheckpointError(
                f"Checkpoint {path} is a TorchScript program; expected weights. Save the "
                "state_dict() of the model instead."
            )
        if "data.pkl" not in names:
            raise CheckpointError(
                f"Checkpoint {path} is a zip archive without PyTorch's data.pkl; expected a file "
                "written by torch.save. If it was packed for the download, unpack it first."
            )
    elif tarfile.is_tarfile(path):
        raise CheckpointError(
            f"Checkpoint {path} is a tar archive; expected a file written by torch.save, which may "
            "well be called .pth.tar without being one. If it was packed for the download, unpack "
            "it first; if PyTorch 0.1 wrote it, save it again with a later version."
        )


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    # The rest of PyTorch's text advises to load the file unsafely.
    reason = str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")
    reason = reason or type(error).__name__
    return CheckpointError(
        f"Checkpoint {path} ({path.stat().st_size:,} bytes) can't be read: {reason}. Nothing in it "
        "was executed. Expected an undamaged file of tensors written by torch.save; download or "
        "copy it again, or have its author save the state_dict() alone."
    )
