"""Write the result tables of README.md and MODEL_ZOO.md from docs/results.json.

Run by ``make results``; with ``--check`` nothing is written and a difference is an error.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "MODEL_ZOO.md")


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def published(results: dict) -> str:
    """Figures of the paper's authors, each with the command that would reproduce it."""
    return table(
        ("task", "published", "parameters", "multiply-adds", "command that would reproduce it"),
        [
            (r["task"], r["result"], r["parameters"], r["compute"], f"`{r['command']}`")
            for r in results["published"]
        ],
    )


def measured(results: dict) -> str:
    """Figures measured with this code: what, how, on which machine and commit."""
    return table(
        ("measured here", "figure", "machine", "commit", "command"),
        [
            (r["what"], r["figure"], r["machine"], r["commit"], f"`{r['command']}`")
            for r in results["measured"]
        ],
    )


def render(page: str, results: dict) -> str:
    """Replace what stands between ``<!-- NAME -->`` and ``<!-- end NAME -->``."""
    for name, make in (("published", published), ("measured", measured)):
        begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n{make(results)}\n{end}{rest.partition(end)[2]}"
    return page


def main() -> int:
    """Render all pages; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    check = parser.parse_args().check
    results = json.loads((ROOT / "docs/results.json").read_text())
    stale = []
    for name in PAGES:
        path = ROOT / name
        new = render(path.read_text(), results)
        if new != path.read_text():
            stale.append(name)
            if not check:
                path.write_text(new)
    if check and stale:
        print(f"out of date: {', '.join(stale)}; run `make results`")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
