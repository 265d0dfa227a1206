"""Python-like text of plain containers, laid out as the formatter black (88 columns) does it."""

import ast
from collections.abc import Mapping
from typing import Any

from detectron2.utils.registry import _convert_target_to_string

_WIDTH = 88
_INDENT = "    "


def python_text(cfg: Mapping, prefix: str) -> str:
    """Assignments ``<prefix><dotted key> = value``; calls for dicts with ``_target_``.

    Text that is not valid Python (objects without such a representation) comes without layout.
    """
    text = _render(cfg, [prefix])
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return text
    laid_out, last = "", 0
    for node in tree.body:
        # An empty dict is an empty line; black keeps two of them at most.
        laid_out += "\n" * min(node.lineno - last - 1, 2 if last else 0) + _statement(node) + "\n"
        last = node.end_lineno
    return laid_out


def _render(obj: Any, prefix: list[str], inside_call: bool = False) -> str:
    """Text without layout; dicts outside of calls become one assignment per key."""
    if isinstance(obj, Mapping) and "_target_" in obj:
        target = obj["_target_"]
        name = target if isinstance(target, str) else _convert_target_to_string(target)
        arguments = sorted((k, v) for k, v in obj.items() if k != "_target_")
        texts = [f"{key}={_render(value, [], True)}" for key, value in arguments]
        return "".join(prefix) + f"{name}({', '.join(texts)})"
    if isinstance(obj, Mapping) and inside_call:
        texts = [f"{key!r}: {_render(value, [], True)}" for key, value in sorted(obj.items())]
        return "{" + ",".join(texts) + "}"
    if isinstance(obj, Mapping):
        lines = []
        for key, value in sorted(obj.items()):
            if isinstance(value, Mapping) and "_target_" not in value:
                lines.append(_render(value, [*prefix, key + "."]))
            else:
                lines.append("".join(prefix) + f"{key}={_render(value, [])}")
        return "\n".join(lines)
    if isinstance(obj, list):
        return "[" + ",".join(_render(value, [], inside_call) for value in obj) + "]"
    return repr(obj)


def _statement(node: ast.stmt) -> str:
    if not isinstance(node, (ast.Assign, ast.Expr)):
        return ast.unparse(node)
    targets = node.targets if isinstance(node, ast.Assign) else []
    head = "".join(f"{ast.unparse(target)} = " for target in targets)
    opening, items, _ = _brackets(node.value) or (_flat(node.value), [], "")
    first = opening if items else _flat(node.value)
    if head and len(head + first) > _WIDTH and len(_INDENT + first) <= _WIDTH:
        return head + "(\n" + _lay_out("", node.value, "", _INDENT) + "\n)"
    return _lay_out(head, node.value, "", "")


def _lay_out(head: str, node: ast.expr, tail: str, indent: str) -> str:
    """Text of ``head node tail``, on one line where that fits, else with its brackets opened."""
    line = indent + head + _flat(node) + tail
    parts = _brackets(node)
    if len(line) <= _WIDTH or parts is None or not parts[1]:
        return line
    opening, items, closing = parts
    inner = indent + _INDENT
    body = inner + ", ".join(label + _flat(item) for label, item in items)
    # Arguments of a call may share a line; items of a list or dict never do.
    if isinstance(node, ast.Call) and len(body) <= _WIDTH:
        lines = [body]
    else:
        comma = "," if len(items) > 1 else ""
        lines = [_lay_out(label, item, comma, inner) for label, item in items]
    return "\n".join([indent + head + opening, *lines, indent + closing + tail])


def _brackets(node: ast.expr) -> tuple[str, list[tuple[str, ast.expr]], str] | None:
    """Opening text, labelled items, and closing text of what can be broken into lines."""
    if isinstance(node, ast.Call):
        items = [("", arg) for arg in node.args]
        items += [(f"{k.arg}=" if k.arg else "**", k.value) for k in node.keywords]
        return _flat(node.func) + "(", items, ")"
    if isinstance(node, ast.List):
        return "[", [("", item) for item in node.elts], "]"
    if isinstance(node, ast.Dict):
        keys = [_flat(key) + ": " for key in node.keys]
        return "{", list(zip(keys, node.values, strict=True)), "}"
    return None


def _flat(node: ast.expr) -> str:
    """One-line text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _quoted(node.value)
    parts = _brackets(node)
    if parts is None:
        return ast.unparse(node)
    opening, items, closing = parts
    return opening + ", ".join(label + _flat(item) for label, item in items) + closing


def _quoted(text: str) -> str:
    """Literal in double quotes, unless single ones need fewer backslashes."""
    literal = repr(text)
    if literal[0] == '"' or text.count('"') > text.count("'"):
        return literal
    return '"' + literal[1:-1].replace("\\'", "'").replace('"', '\\"') + '"'
