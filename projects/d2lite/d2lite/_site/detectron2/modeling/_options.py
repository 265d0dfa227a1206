"""What parts of models need to be built from a config."""

from detectron2.config import configurable  # noqa: F401
from detectron2.utils.registry import Registry  # noqa: F401


def options(node, names: str, **renamed: str) -> dict:
    """Values of a config node as arguments.

    Args:
        node: of the config.
        names: keys, separated by spaces, of arguments that are called the same in lower case.
        renamed: key of each argument that is called otherwise.
    """
    keys = {name.lower(): name for name in names.split()} | renamed
    return {argument: node[key] for argument, key in keys.items()}


def same_for_all_levels(values, what: str):
    """The one value that the levels of a pyramid have in common."""
    values = set(values)
    assert len(values) == 1, f"Each level must have the same {what}! Got {values}"
    return values.pop()
