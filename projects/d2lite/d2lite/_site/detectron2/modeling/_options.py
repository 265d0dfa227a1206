"""From keys of a config to arguments of a constructor."""


def options(node, *names: str) -> dict:
    """Values of a config node as arguments, whose names are the keys' in lower case."""
    return {name.lower(): node[name] for name in names}
