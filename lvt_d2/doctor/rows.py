"""What probes report."""

import importlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

OK, NOTE, WARNING, PROBLEM = "ok", "note", "warning", "problem"
"""Levels: it works; a word on it; a part fails that training does without; training fails."""


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Attributes:
        section: a title, such as "Versions"; sections come in the order of their first rows.
        subject: what it is about.
        text: what was found.
        level: one of the four of a check; "" for a mere fact.
        remedy: what to do: a command, or a sentence where no command does it.
    """

    section: str
    subject: str
    text: str
    level: str = ""
    remedy: str = ""


def check(subject: str, text: str, level: str = OK, remedy: str = "") -> Row:
    """A row of the section of checks."""
    return Row("Checks", subject, text, level, remedy)


def importable(*modules: str) -> bool:
    """Whether modules that others stand on can be imported; why not is told by checks of theirs."""
    try:
        for module in modules:
            importlib.import_module(module)
    except BaseException:  # SystemExit, too
        return False
    return True


def installed_version(distribution: str) -> str | None:
    """Version that pip knows of; None where it knows of none."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
