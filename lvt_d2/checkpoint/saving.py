"""Checkpoints that are written whole or not at all, and the last good one found again."""

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from detectron2.checkpoint import DetectionCheckpointer

import lvt_d2
from lvt_d2.errors import CheckpointError

logger = logging.getLogger(__name__)

TAG = "last_checkpoint"  # holds the name of the checkpoint to resume from, as in Detectron2
_UNFINISHED = ".unfinished"  # always this name: what a killed process leaves is overwritten


class AtomicCheckpointer(DetectionCheckpointer):
    """``DetectionCheckpointer`` whose folder holds whole checkpoints at every moment.

    A file is written under another name, synced to the disk and renamed, then ``last_checkpoint``
    in the same way. Remote folders (``scheme://...``) are written as Detectron2 does.
    """

    def save(self, name: str, **kwargs: Any) -> None:
        """Save model and checkpointables as ``NAME.pth``, on the main process.

        Args:
            name: of the file, without its folder.
            kwargs: more to save.

        Raises:
            CheckpointError: the disk is full, or the folder can't be written; the checkpoints that
                are there stay as they were.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        extra = {"lvt_d2": {"engine": lvt_d2.ENGINE}, **kwargs}
        if _is_remote(self.save_dir):
            super().save(name, **extra)
            return
        content = {"model": self.model.state_dict()}
        content |= {key: item.state_dict() for key, item in self.checkpointables.items()}
        path = os.path.join(self.save_dir, f"{name}.pth")
        logger.info("Saving checkpoint to %s", path)
        with replacing(path) as file:
            torch.save({**content, **extra}, file)
        self.tag_last_checkpoint(os.path.basename(path))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Make this file of the folder the one that training resumes from."""
        if _is_remote(self.save_dir):
            super().tag_last_checkpoint(last_filename_basename)
            return
        with replacing(os.path.join(self.save_dir, TAG)) as file:
            file.write(last_filename_basename.encode())

    def tagged_checkpoint(self) -> str:
        """Path that ``last_checkpoint`` holds; empty without one."""
        return self.get_checkpoint_file() if self.has_checkpoint() else ""

    def resume_candidates(self) -> list[str]:
        """Paths to try in turn: what ``last_checkpoint`` names, then the newest files first."""
        tagged = self.tagged_checkpoint()
        others: list[str] = []
        if self.save_dir and not _is_remote(self.save_dir):
            files = list(Path(self.save_dir).glob("*.pth"))
            files.sort(key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
            others = [os.path.join(self.save_dir, path.name) for path in files]
        return list(dict.fromkeys([tagged, *others] if tagged else others))


class WeightsCheckpointer(AtomicCheckpointer):
    """Saves weights to keep, such as the best ones, which no training resumes from."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Leave ``last_checkpoint`` as it is."""


@contextmanager
def replacing(path: str) -> Iterator[IO[bytes]]:
    """A new file that takes the place of ``path``, synced, once the block is done.

    Raises:
        CheckpointError: it can't be written; what was at ``path`` is still there.
    """
    folder = os.path.dirname(path) or "."
    unfinished = os.path.join(folder, _UNFINISHED)
    try:
        os.makedirs(folder, exist_ok=True)
        with open(unfinished, "wb") as file:
            remembering = _Remembering(file)
            try:
                yield remembering
            except RuntimeError as error:
                # PyTorch reports its own bookkeeping, not what the system said.
                raise remembering.error or error from None
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        _sync_folder(folder)
    except OSError as error:
        _remove(unfinished)
        raise CheckpointError(_refusal(path, folder, error)) from error
    except BaseException:
        _remove(unfinished)
        raise


class _Remembering:
    """A file whose first error is kept for whoever asks."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.error: OSError | None = None

    def write(self, data) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self._file.flush()


def _sync_folder(folder: str) -> None:
    """Make the renaming survive a power failure, where the system can open folders."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # not there, or the folder is read-only: then it was not made either


def _refusal(path: str, folder: str, error: OSError) -> str:
    free = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = f" ({shutil.disk_usage(folder).free / 2**20:,.0f} MiB are free there)"
    return (
        f"{path} could not be written: {error.strerror or error}{free}. Checkpoints saved before "
        "are intact. Make room or the folder writable, or copy the folder and name the copy in "
        "train.output_dir; then --resume goes on from the last checkpoint. "
        "train.checkpointer.max_to_keep=N keeps fewer of them"
    )


def _is_remote(folder: str) -> bool:
    return "://" in folder
