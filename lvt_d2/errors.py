"""Errors that a user can mend: one paragraph each, with what is wrong, found, expected, and to do.

Tools print such an error's text and end with its ``exit_status``; a traceback is kept for bugs.
Classes also derive from the built-in type that a caller would expect, so ``except ValueError``
and ``except FileNotFoundError`` work as they do everywhere else in Python.
"""


class LVTError(RuntimeError):
    """Base of all errors of this project that name a remedy.

    Attributes:
        exit_status: what a tool that dies of it returns to the shell.
        on_all_ranks: every process raises it with the same text, so only the main one prints it.
    """

    exit_status = 1
    on_all_ranks = False

    def __str__(self) -> str:
        text = super().__str__()
        if text.startswith("Caught "):
            # DataLoader raises an error of its workers anew, with their traceback as its text.
            kind = type(self)
            text = text.rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2].rstrip()
        return text


class ConfigError(LVTError, ValueError):
    """A config file, an override or a command-line option can't be what the user means."""

    exit_status = 2


class ConfigFileNotFoundError(ConfigError, FileNotFoundError):
    """The config file does not exist."""


class DatasetError(LVTError, ValueError):
    """Images, labels or their description are missing, broken, or disagree."""


class DatasetFileNotFoundError(DatasetError, FileNotFoundError):
    """A file or folder of a data set does not exist."""


class CheckpointError(LVTError, ValueError):
    """A checkpoint can't be read, is not safe to read, or does not fit the model."""


class CheckpointFileNotFoundError(CheckpointError, FileNotFoundError):
    """The checkpoint file does not exist."""


class NonFiniteLossError(LVTError, FloatingPointError):
    """A training loss is NaN or infinite; raised on all processes before any update."""

    on_all_ranks = True
