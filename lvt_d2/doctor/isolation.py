"""Runs probes in a process of their own: whatever they import may raise, crash, hang or exit."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lvt_d2.doctor.rows import PROBLEM, Row, check

TIMEOUT = 300  # seconds for all probes of a process
_TAIL = 400  # characters of stderr that are shown of a crash


def run_probes(names: Sequence[str]) -> list[Row]:
    """Rows of all probes, in order; one that takes its process along is a row itself.

    One process runs them all, so that PyTorch is imported once; after a crash another one goes on
    behind the probe that crashed.
    """
    rows, left = [], list(names)
    while left:
        done, crash = _run(left)
        for name in left[: len(done)]:
            rows.extend(Row(**row) for row in done[name])
        left = left[len(done) :]
        if left and crash:
            rows.append(
                check(
                    left[0],
                    f"the check took its process along: {crash}",
                    PROBLEM,
                    "reinstall what this names: pip install --force-reinstall --no-deps NAME",
                )
            )
            # Nothing that comes later does without PyTorch.
            left = [] if left[0] == "torch" else left[1:]
    return rows


def _run(names: Sequence[str]) -> tuple[dict[str, list[dict]], str]:
    """Rows by probe of those that came to their end, and what ended the process before all had."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.touch()
        command = [sys.executable, "-m", "lvt_d2.doctor.worker", str(path), *names]
        try:
            ended = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT
            )
            how = _how_it_ended(ended.returncode)
            stderr = " ".join(ended.stderr.split())
        except subprocess.TimeoutExpired:
            how, stderr = f"it did not end within {TIMEOUT} seconds", ""
        done = dict(json.loads(line) for line in path.read_text().splitlines() if line)
    if len(done) == len(names):
        return done, ""
    return done, f"{how}. {stderr[-_TAIL:]}".strip()


def _how_it_ended(status: int) -> str:
    if status < 0:
        name = signal.Signals(-status).name if -status in list(signal.Signals) else str(-status)
        return f"killed by {name}"
    return f"exit status {status}" if os.name == "posix" else f"exit status {status:#x}"
