"""Python-like text of plain containers, laid out as the formatter black (88 columns) does it."""

import ast
import re
from collections.abc import Mapping
from typing import Any

from detectron2.utils.registry import _convert_target_to_string

_WIDTH = 88
_INDENT = "    "


def python_text(cfg: Mapping, prefix: str) -> str:
    """Assignments ``<prefix><dotted key> = value``; calls for dicts with ``_target_``.

    Text that is not valid Python (objects without such a representation) comes without layout.
    """
    lines = _lines(cfg, prefix)
    try:
        text = "\n".join(_statement(line) for line in lines).strip("\n")
    except SyntaxError:
        return "\n".join(lines)
    # An empty dict is an empty line; black keeps two of them at most.
    return re.sub("\n{4,}", "\n\n\n", text) + "\n" * bool(text)


def _lines(cfg: Mapping, prefix: str) -> list[str]:
    if "_target_" in cfg:
        return [prefix + _render(cfg)]
    lines = []
    for key, value in sorted(cfg.items()):
        if isinstance(value, Mapping) and "_target_" not in value:
            lines += _lines(value, f"{prefix}{key}.") or [""]
        else:
            lines.append(f"{prefix}{key}={_render(value)}")
    return lines


def _render(obj: Any, inside_call: bool = False) -> str:
    """Text without layout."""
    if isinstance(obj, Mapping) and "_target_" in obj:
        target = obj["_target_"]
        name = target if isinstance(target, str) else _convert_target_to_string(target)
        arguments = sorted((k, v) for k, v in obj.items() if k != "_target_")
        return f"{name}({', '.join(f'{k}={_render(v, True)}' for k, v in arguments)})"
    if isinstance(obj, Mapping) and inside_call:
        return "{" + ",".join(f"{k!r}: {_render(v, True)}" for k, v in sorted(obj.items())) + "}"
    if isinstance(obj, Mapping):
        return "\n".join(_lines(obj, ""))
    if isinstance(obj, list):
        return "[" + ",".join(_render(value, inside_call) for value in obj) + "]"
    return repr(obj)


def _statement(line: str) -> str:
    """Laid out line of code."""
    module = ast.parse(line)
    if not module.body:
        return ""
    node = module.body[0]
    if not isinstance(node, (ast.Assign, ast.Expr)):
        return ast.unparse(module)
    head = ast.unparse(node.targets) + " = " if isinstance(node, ast.Assign) else ""
    plain = _lay_out(head, node.value, "", "")
    in_parentheses = _lay_out("", node.value, "", _INDENT)
    if len(plain.split("\n")[0]) > _WIDTH >= max(map(len, in_parentheses.split("\n"))):
        return f"{head}(\n{in_parentheses}\n)"
    return plain


def _lay_out(head: str, node: ast.expr, tail: str, indent: str) -> str:
    """Text of ``head node tail``, on one line where that fits, else with its brackets opened."""
    line = indent + head + _flat(node) + tail
    opening, items, closing = _parts(node)
    if len(line) <= _WIDTH or not items:
        return line
    inner = indent + _INDENT
    body = inner + ", ".join(label + _flat(item) for label, item in items)
    # Arguments of a call may share a line; items of a list or dict never do.
    if isinstance(node, ast.Call) and len(body) <= _WIDTH:
        lines = [body]
    else:
        comma = "," if len(items) > 1 else ""
        lines = [_lay_out(label, item, comma, inner) for label, item in items]
    return "\n".join([indent + head + opening, *lines, indent + closing + tail])


def _parts(node: ast.expr) -> tuple[str, list[tuple[str, ast.expr]], str]:
    """Opening text, labelled items, and closing text; only the first where there are no brackets.

    Strings are in double quotes, unless single ones need fewer backslashes.
    """
    if isinstance(node, ast.Call):
        labelled = [(f"{keyword.arg}=", keyword.value) for keyword in node.keywords]
        return _flat(node.func) + "(", [("", x) for x in node.args] + labelled, ")"
    if isinstance(node, ast.List):
        return "[", [("", item) for item in node.elts], "]"
    if isinstance(node, ast.Dict):
        labels = [_flat(key) + ": " for key in node.keys]
        return "{", list(zip(labels, node.values, strict=True)), "}"
    text = ast.unparse(node)
    if text[0] == "'" and node.value.count('"') <= node.value.count("'"):
        text = '"' + text[1:-1].replace("\\'", "'").replace('"', '\\"') + '"'
    return text, [], ""


def _flat(node: ast.expr) -> str:
    """One-line text."""
    opening, items, closing = _parts(node)
    return opening + ", ".join(label + _flat(item) for label, item in items) + closing
