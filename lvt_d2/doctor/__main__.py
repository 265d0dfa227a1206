"""``python -m lvt_d2.doctor``: says what is installed here, and whether training would work.

Run it where the training is run, with the same variables. It changes nothing. The exit status is 0
only if no check has found a problem and a training step has been made.
"""

import argparse
import sys
import textwrap

from lvt_d2.doctor.isolation import run_probes
from lvt_d2.doctor.rows import OK, PROBLEM, WARNING, Row
from lvt_d2.doctor.training import SUBJECT
from lvt_d2.doctor.worker import PROBES

_WIDTH = 110  # columns of the report


def render(rows: list[Row]) -> str:
    """The report: facts by section, then checks with their remedies."""
    lines = []
    facts = [row for row in rows if not row.level]
    for section in dict.fromkeys(row.section for row in facts):
        group = [row for row in facts if row.section == section]
        width = max(len(row.subject) for row in group)
        lines += ["", section]
        lines += [_wrapped(f"  {row.subject:<{width}}  ", row.text) for row in group]
    lines += ["", "Checks"]
    checks = [row for row in rows if row.level]
    width = max(len(row.subject) for row in checks)
    for row in checks:
        head = f"  {row.level:<7}  {row.subject:<{width}}  "
        lines.append(_wrapped(head, row.text))
        if row.remedy:
            # In one line however long it is: it is there to be copied.
            lines.append(f"{' ' * len(head)}-> {row.remedy}")
    return "\n".join(lines)


def _wrapped(head: str, text: str) -> str:
    return textwrap.fill(
        text or "-",
        _WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )


def verdict(rows: list[Row]) -> tuple[int, str]:
    """Exit status, and the last line."""
    problems = [row for row in rows if row.level == PROBLEM]
    warned = [row for row in rows if row.level == WARNING]
    trained = any(row.subject == SUBJECT and row.level == OK for row in rows)
    if problems or not trained:
        names = ", ".join(dict.fromkeys(row.subject for row in problems)) or SUBJECT
        return 1, f"Training would not work as things are. Problems: {names}."
    also = f" Warnings: {', '.join(row.subject for row in warned)}." if warned else ""
    return 0, f"Training would work.{also}"


def main(argv: list[str] | None = None) -> int:
    """Print the report and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m lvt_d2.doctor",
        description=__doc__.partition(": ")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(argv)
    rows = run_probes(list(PROBES))
    status, last = verdict(rows)
    print(f"{render(rows)}\n\n{last}".lstrip("\n"))
    return status


if __name__ == "__main__":
    sys.exit(main())
