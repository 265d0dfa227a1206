"""Analyses as Markdown and as plain data."""

from collections.abc import Mapping

from tabulate import tabulate

from lvt_d2.analysis.compute import RULES, Analysis, Counts

_MULTIPLY_ADDS = ("layers", "products", "published")


def as_markdown(title: str, analysis: Analysis, depth: int = 2) -> str:
    """A headed table of modules, multiply-adds in G and activations in M.

    A cell is empty where the published rule counts the layer around it as a whole.

    Args:
        title: of the model.
        analysis: of it.
        depth: levels of module names below the model; modules without a figure are left out.
    """
    with_fvcore = analysis.total.fvcore is not None
    headers = ["module", "parameters", "layers [G]", "attention products [G]", "published rule [G]"]
    if with_fvcore:
        headers += ["fvcore's rule [G]", "activations [M]"]
    rows = [
        [name or "**all**", *_cells(counts, with_fvcore)]
        for name, counts in analysis.modules.items()
        if _level(name) <= depth and _has_figures(counts)
    ]
    height, width = analysis.size
    heading = f"### {title}, {height}x{width} (height x width)"
    if analysis.padded != analysis.size:
        heading += f", padded to {analysis.padded[0]}x{analysis.padded[1]}"
    table = tabulate(
        rows,
        headers=headers,
        tablefmt="pipe",
        disable_numparse=True,
        colalign=("left", *("right",) * (len(headers) - 1)),
    )
    return f"{heading}\n\n{table}"


def rules_as_markdown(with_fvcore: bool = True) -> str:
    """What each figure counts, as a list."""
    names = {
        "parameters": "parameters",
        "layers": "layers",
        "products": "attention products",
        "published": "published rule",
        "fvcore": "fvcore's rule",
        "activations": "activations",
    }
    shown = names if with_fvcore else list(names)[:4]
    lines = [f"- **{names[key]}**: {RULES[key]}" for key in shown]
    return "\n".join(["1 = one multiply-add of one image; G = 10^9, M = 10^6.", "", *lines])


def as_dict(title: str, analysis: Analysis) -> dict:
    """All modules' figures as JSON can hold them; single multiply-adds and elements, not G or M."""
    return {
        "model": title,
        "size": list(analysis.size),
        "padded": list(analysis.padded),
        "modules": {name: counts.as_dict() for name, counts in analysis.modules.items()},
    }


def _level(name: str) -> int:
    return name.count(".") + 1 if name else 0


def _has_figures(counts: Counts) -> bool:
    figures: Mapping[str, int | None] = counts.as_dict()
    return any(figures.values())


def _cells(counts: Counts, with_fvcore: bool) -> list[str]:
    figures = counts.as_dict()
    cells = [f"{counts.parameters:,}", *(_scaled(figures[k], 9, 3) for k in _MULTIPLY_ADDS)]
    if with_fvcore:
        cells += [_scaled(counts.fvcore, 9, 3), _scaled(counts.activations, 6, 1)]
    return cells


def _scaled(value: int | None, power: int, digits: int) -> str:
    return "" if value is None else f"{value / 10**power:.{digits}f}"
