"""Reads settings from YAML files and the command line, and refuses what has no meaning."""

import argparse
import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from lvt_d2.errors import ConfigError, ConfigFileNotFoundError
from lvt_imagenet.kinds import is_list
from lvt_imagenet.options import ALL, OPTIONS, check

DEFAULTS = Path(__file__).resolve().parents[1] / "configs" / "lvt_imagenet.yaml"
"""The published recipe; other files and the command line change some of it."""


def read_settings(argv: Sequence[str] | None, description: str) -> argparse.Namespace:
    """Settings from the defaults, the file of ``--config``, and the command line, in this order.

    Args:
        argv: words of the command line; None takes the program's.
        description: for ``--help``.

    Raises:
        ConfigError: an unknown name (with the nearest one), or a value that has no meaning.
        ConfigFileNotFoundError: the file does not exist.
    """
    parser = create_parser(description)
    parser.add_argument("--config", default=None, metavar="YAML", help="settings that differ")
    add_options(parser, OPTIONS)
    given = parse(parser, argv)
    values = read_yaml(DEFAULTS)
    if given.config:
        values |= read_yaml(Path(given.config))
    settings = argparse.Namespace(**(values | given_options(given)), data=given.data)
    check(settings)
    return settings


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `ConfigError` where others end the program."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message[0].upper()}{message[1:]}; --help lists all options")


def parse(parser: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """``parse_args`` that answers an unknown option with the nearest names.

    Raises:
        ConfigError: the command line can't be what the user means.
    """
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        options = [name for action in parser._actions for name in action.option_strings]
        name = unknown[0].partition("=")[0]
        kind = "option" if name.startswith("-") else "word"
        raise ConfigError(f"There is no {kind} {name}{_nearest(name, options)}; see --help")
    return given


def read_yaml(path: Path) -> dict[str, Any]:
    """Settings of a YAML file.

    Raises:
        ConfigFileNotFoundError: it does not exist.
        ConfigError: it is no YAML, or has an unknown key or a value without meaning.
    """
    if not path.is_file():
        there = ", ".join(sorted(file.name for file in path.parent.glob("*.yaml")))
        raise ConfigFileNotFoundError(
            f"The config {path} does not exist; {path.parent}/ has {there or 'no YAML file'}"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The config {path} is no YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"The config {path} holds no settings; expected lines such as 'lr: 0.001'"
        )
    for name in content:
        if name not in ALL:
            raise ConfigError(
                f"The config {path} sets {name!r}, which is no setting{_nearest(str(name), ALL)}; "
                "train.py --help lists all"
            )
    return {name: valid(name, value, f"{name} of {path}") for name, value in content.items()}


def create_parser(description: str) -> Parser:
    """A parser whose options are absent from its result unless they are given.

    Args:
        description: a summary, an empty line, and details.
    """
    summary, _, details = description.partition("\n\n")
    parser = Parser(
        description=summary,
        epilog=details,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", nargs="?", default=None, help="folder of the data set")
    return parser


def add_options(parser: Parser, groups: Mapping[str, Iterable[str]]) -> None:
    """Add settings to a parser, under their headings, with the published values told."""
    defaults = read_yaml(DEFAULTS)
    for heading, names in groups.items():
        group = parser.add_argument_group(heading)
        for name in names:
            option = ALL[name]
            told = f"{option.help} ({_written(defaults[name])})".replace("%", "%%")
            if isinstance(defaults[name], bool):
                group.add_argument(
                    f"--{_dashed(name)}", action=argparse.BooleanOptionalAction, help=told
                )
            else:
                many = "+" if is_list(option.kind) else None
                group.add_argument(f"--{_dashed(name)}", nargs=many, metavar="X", help=told)


def given_options(given: argparse.Namespace) -> dict[str, Any]:
    """The settings that a command line changes.

    Raises:
        ConfigError: a value has no meaning.
    """
    words = vars(given)
    return {name: valid(name, words[name], f"--{_dashed(name)}") for name in ALL if name in words}


def valid(name: str, value: Any, where: str) -> Any:
    """The value of a setting as the program works with it.

    Args:
        name: of the setting.
        value: as given.
        where: it was given, for the message.

    Raises:
        ConfigError: it has no meaning.
    """
    try:
        return ALL[name].kind(value)
    except ValueError as error:
        raise ConfigError(f"{where} is {value!r}; expected {error}") from None


def _nearest(name: str, known: Iterable[str]) -> str:
    plain = {each.lstrip("-").replace("-", "_"): each for each in known}
    close = difflib.get_close_matches(name.lstrip("-").replace("-", "_"), plain, n=2, cutoff=0.5)
    return f" (did you mean {' or '.join(plain[each] for each in close)}?)" if close else ""


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _written(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(f"{each:g}" for each in value)
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
