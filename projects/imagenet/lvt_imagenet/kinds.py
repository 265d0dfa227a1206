"""What the value of an option may be; the same words judge YAML files and command lines."""

from collections.abc import Callable, Sequence
from typing import Any

import yaml

Kind = Callable[[Any], Any]
"""Takes a value of YAML or a word of the command line, returns what the program works with.

Raises:
    ValueError: with what was expected, as its text.
"""


def is_list(kind: Kind) -> bool:
    """Whether the command line takes several words for it."""
    return getattr(kind, "is_list", False)


def text(value: Any) -> str:
    """Any word."""
    if not isinstance(value, str):
        raise ValueError("a word")
    return value


def flag(value: Any) -> bool:
    """Yes or no."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def whole(least: int = 0) -> Kind:
    """A whole number of at least ``least``."""

    def parse(value: Any) -> int:
        try:
            if isinstance(value, (bool, float)) or int(value) < least:
                raise ValueError
        except (TypeError, ValueError):
            raise ValueError(f"a whole number, {least} or more") from None
        return int(value)

    return parse


def number(least: float = 0.0, most: float = float("inf")) -> Kind:
    """A number between two others; YAML reads ``1e-6`` as a word, which is a number here."""

    def parse(value: Any) -> float:
        try:
            if isinstance(value, bool) or not least <= float(value) <= most:
                raise ValueError
        except (TypeError, ValueError):
            limits = f"{least:g} or more" if most == float("inf") else f"{least:g} to {most:g}"
            raise ValueError(f"a number, {limits}") from None
        return float(value)

    return parse


def choice(*words: str) -> Kind:
    """One of some words."""

    def parse(value: Any) -> str:
        if value not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return value

    return parse


def optional(kind: Kind) -> Kind:
    """Another kind, or nothing: ``null`` in YAML, ``none`` on the command line."""

    def parse(value: Any) -> Any:
        if value is None or value in ("none", "null", ["none"], ["null"]):
            return None
        try:
            return kind(value)
        except ValueError as error:
            raise ValueError(f"{error}, or none") from None

    parse.is_list = is_list(kind)
    return parse


def several(kind: Kind, counts: Sequence[int]) -> Kind:
    """A list of values; a single one stands for a list of one."""

    def parse(value: Any) -> list:
        values = value if isinstance(value, (list, tuple)) else [value]
        amounts = " or ".join(map(str, counts))
        if len(values) not in counts:
            raise ValueError(f"{amounts} values")
        try:
            return [kind(each) for each in values]
        except ValueError as error:
            raise ValueError(f"{amounts} values, each {error}") from None

    parse.is_list = True
    return parse


def arguments(value: Any) -> dict[str, Any]:
    """Keyword arguments: a mapping in YAML, ``name=value`` words on the command line."""
    if value is None:
        return {}
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return value
    words = value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(word, str) and "=" in word for word in words):
        raise ValueError("name=value, several of them with blanks between")
    pairs = (word.split("=", 1) for word in words)
    return {name: yaml.safe_load(written) for name, written in pairs}


arguments.is_list = True
