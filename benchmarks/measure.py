"""Paired timings, peak memory, and the arithmetic of the tables.

All contenders of a case run in one process, one after the other in every round and in another
order each time, so that what disturbs a machine disturbs them alike.
"""

import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

SHORTEST_SAMPLE = 0.02  # seconds; what is faster is repeated within a sample


@dataclass(frozen=True)
class Contender:
    """Something to time.

    Args:
        run: does it once.
        prepare: is called before each timed sample, and not timed.
    """

    run: Callable[[], object]
    prepare: Callable[[], object] | None = None


@dataclass(frozen=True)
class Row:
    """One contender's figures; ratios are the baseline's figure divided by its own."""

    name: str
    median: float  # seconds of one run
    quartiles: tuple[float, float]
    per_second: float  # images
    ratio: float
    ratio_quartiles: tuple[float, float]  # of the rounds' own ratios
    peak: int | None  # bytes beyond what lay in memory before
    peak_ratio: float | None  # its own peak divided by the baseline's


def interleaved(
    contenders: dict[str, Contender],
    seconds: float,
    rounds: tuple[int, int],
    device: torch.device,
) -> dict[str, list[float]]:
    """Seconds of one run, of every contender in every round; the first runs do not count.

    Args:
        contenders: by name.
        seconds: about as long as all rounds together may take.
        rounds: fewest and most rounds.
        device: where they compute.
    """
    repeats, spent = {}, 0.0
    for name, contender in contenders.items():
        _sample(contender, 1, device)  # lazy initialisation, compilation
        once = _sample(contender, 1, device)
        repeats[name] = max(1, round(SHORTEST_SAMPLE / once))
        spent += once * repeats[name]
    count = max(rounds[0], min(rounds[1], int(seconds / spent)))
    order, times = list(contenders), {name: [] for name in contenders}
    for _ in range(count):
        for name in order:
            times[name].append(_sample(contenders[name], repeats[name], device))
        order = order[1:] + order[:1]
    return times


def _sample(contender: Contender, repeats: int, device: torch.device) -> float:
    if contender.prepare is not None:
        contender.prepare()
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        contender.run()
    _wait(device)
    return (time.perf_counter() - start) / repeats


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(contender: Contender, device: torch.device) -> int:
    """Bytes of tensors that a run has at its peak beyond those that were there before.

    On a CPU it is summed up from every allocation and release that PyTorch's profiler records,
    which is exact and repeatable, as the size of the process is not; on a GPU the allocator counts.
    """
    if contender.prepare is not None:
        contender.prepare()
    gc.collect()
    if device.type == "cuda":
        _wait(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        contender.run()
        _wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        contender.run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return peak_of_events(events)


def peak_of_events(events: Sequence[dict]) -> int:
    """Highest sum of the ``[memory]`` events of a trace, in bytes."""
    changes = [e for e in events if e.get("name") == "[memory]"]
    now = peak = 0
    for event in sorted(changes, key=lambda e: e["ts"]):
        now += event["args"]["Bytes"]
        peak = max(peak, now)
    return peak


def summarize(
    times: dict[str, list[float]],
    peaks: dict[str, int | None],
    baseline: str,
    images: int,
) -> list[Row]:
    """Medians, and their ratios to the baseline's.

    Args:
        times: seconds of one run, by contender and round.
        peaks: bytes, by contender; None where they were not measured.
        baseline: the contender that the others are compared with.
        images: of one run.
    """
    rows = []
    base_median, base_peak = statistics.median(times[baseline]), peaks[baseline]
    for name, found in times.items():
        median = statistics.median(found)
        paired = [b / own for b, own in zip(times[baseline], found, strict=True)]
        peak = peaks[name]
        rows.append(
            Row(
                name,
                median,
                quartiles(found),
                images / median,
                base_median / median,
                quartiles(paired),
                peak,
                peak / base_peak if peak is not None and base_peak else None,
            )
        )
    return rows


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """First and third quartile; of a single value that value twice."""
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The k of the least-squares fit ``value = c size^k``."""
    logs = torch.tensor([sizes, values], dtype=torch.float64).log()
    x, y = logs - logs.mean(dim=1, keepdim=True)
    return ((x @ y) / (x @ x)).item()
