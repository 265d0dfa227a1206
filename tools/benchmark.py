#!/usr/bin/env python
"""Times LVT against its textbook formulation and timm's networks, paired in one process.

    python tools/benchmark.py --suite quick
    python tools/benchmark.py --case infer-1x800x1088 train-2x512 --output output/benchmark
    python tools/benchmark.py --suite gpu --device cuda
    python tools/benchmark.py --scaling --output output/benchmark

First comes the largest difference to the textbook. A case is ``infer-BxS``, ``infer-BxHxW`` or
``train-...`` (forward and backward), with endings -bf16, -fp16, -mixed, -compiled, -graph, -peers;
or panoptic (JPEG to maps, at 800x1333), segmentor (short side 512), mapper. Ratios are of medians;
behind them stand the quartiles of the rounds' own ratios.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler that counts memory is talkative
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout needs no installation

import lvt_d2  # noqa: E402, F401  (decides which engine answers to `detectron2`)

# isort: split
import torch  # noqa: E402

from benchmarks import backbones, scaling  # noqa: E402
from benchmarks.cases import SUITES, Case, build, parse  # noqa: E402
from benchmarks.measure import Row, interleaved, peak_memory, summarize  # noqa: E402
from benchmarks.setting import setting  # noqa: E402
from lvt_d2.engine.launch import report  # noqa: E402
from lvt_d2.errors import ConfigError, LVTError  # noqa: E402

WHOLE = ("panoptic", "segmentor", "mapper")
BEST = "best"  # the fastest of our contenders, where a floor allows any of them


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", choices=SUITES, help="cases by name of a preset")
    parser.add_argument("--case", nargs="+", default=[], metavar="NAME", help="single cases")
    parser.add_argument("--scaling", action="store_true", help="growth over size and batch, too")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, help="of PyTorch (its own choice)")
    parser.add_argument("--seconds", type=float, default=20, help="about, a case (%(default)s)")
    parser.add_argument(
        "--rounds", type=int, nargs=2, default=(5, 51), metavar="N", help="fewest and most"
    )
    parser.add_argument("--no-exactness", action="store_true", help="skip the comparison")
    parser.add_argument("--no-memory", action="store_true", help="skip the peaks of memory")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="Markdown, JSON and plot")
    args = parser.parse_args(argv)
    if not (args.suite or args.case or args.scaling):
        args.suite = "quick"
    if not 1 <= args.rounds[0] <= args.rounds[1] or args.seconds <= 0:
        parser.error("--rounds must be 1 <= fewest <= most, and --seconds above 0")
    if args.threads is not None and args.threads < 1:
        parser.error(f"--threads is {args.threads}; expected 1 or more")
    return args


def measure(case: Case, args: argparse.Namespace, device: torch.device) -> list[Row]:
    """Time a case's contenders; GPU cases get a row for the fastest of ours."""
    times = interleaved(case.contenders, args.seconds, tuple(args.rounds), device)
    peaks = dict.fromkeys(case.contenders)
    if case.with_memory and not args.no_memory:
        for name, contender in case.contenders.items():
            # Compiled code and graphs keep buffers of their own, which would count as nothing.
            if not any(word in name for word in ("compiled", "graph")):
                peaks[name] = peak_memory(contender, device)
    rows = summarize(times, peaks, case.baseline, case.images)
    if any(floor.ours == BEST for floor in case.floors):
        ours = [r for r in rows if "textbook" not in r.name and r.name not in backbones.PEERS]
        fastest = min(ours, key=lambda row: row.median)
        rows.append(Row(**{**asdict(fastest), "name": BEST}))
    return rows


def as_markdown(case: Case, rows: list[Row]) -> str:
    """Table of a case, and whether it shows what it must."""
    lines = [
        f"### {case.name}",
        "",
        f"| contender | ms | quartiles | images/s | {case.baseline} / it | quartiles "
        "| peak MiB | of the peak |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        cells = [
            row.name,
            f"{1e3 * row.median:.2f}",
            "-".join(f"{1e3 * q:.2f}" for q in row.quartiles),
            f"{row.per_second:.2f}",
            f"{row.ratio:.2f}",
            "-".join(f"{q:.2f}" for q in row.ratio_quartiles),
            "" if row.peak is None else f"{row.peak / 2**20:.1f}",
            "" if row.peak_ratio is None else f"{row.peak_ratio:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for floor in case.floors:
        found = floor.found(rows)
        if found is None:
            continue
        what = (
            f"{floor.baseline} / {floor.ours}, time, at least {floor.bound:g}"
            if floor.figure == "time"
            else f"{floor.ours} / {floor.baseline}, peak memory, at most {floor.bound:g}"
        )
        verdict = "met" if floor.met(found) else "NOT met"
        lines += ["", f"{what}: {found:.2f}, {verdict}"]
    return "\n".join(lines)


def as_record(case: Case, rows: list[Row]) -> dict:
    """What the JSON says of a case."""
    floors = []
    for floor in case.floors:
        found = floor.found(rows)
        met = None if found is None else floor.met(found)
        floors.append({**asdict(floor), "found": found, "met": met})
    return {
        "case": case.name,
        "baseline": case.baseline,
        "rows": [asdict(row) for row in rows],
        "floors": floors,
    }


def run(args: argparse.Namespace) -> None:
    """Measure what is asked for, print it, and write the files.

    Raises:
        ConfigError: a case does not exist, or there is no GPU.
    """
    names = list(dict.fromkeys([*(SUITES[args.suite] if args.suite else []), *args.case]))
    for name in names:
        if name not in WHOLE:
            parse(name)  # all mistakes before the first minutes
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this PyTorch sees no GPU; leave it out")
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    record = {"setting": setting(device), "exactness": None, "cases": [], "growth": None}
    sections = []

    def show(text: str) -> None:
        sections.append(text)
        print(f"{text}\n", flush=True)

    show("\n".join(f"- {key}: {value}" for key, value in record["setting"].items()))
    if not args.no_exactness:
        record["exactness"] = found = backbones.exactness(device)
        lines = [f"- {key}: {value:.1e}" for key, value in found.items()]
        show("Largest difference to the textbook:\n\n" + "\n".join(lines))
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            case = build(name, device, Path(folder))
            rows = measure(case, args, device)
            record["cases"].append(as_record(case, rows))
            show(as_markdown(case, rows))
            if device.type == "cuda":
                torch.cuda.empty_cache()
    if args.scaling:
        record["growth"] = scaling.measure(device, seconds=args.seconds)
        show("### growth\n" + scaling.as_markdown(record["growth"]))
    if args.output is not None:
        _write(args.output, sections, record)


def _write(folder: Path, sections: list[str], record: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmark.md").write_text("\n\n".join(sections) + "\n")
    (folder / "benchmark.json").write_text(json.dumps(record, indent=1) + "\n")
    if record["growth"] is not None:
        scaling.plot(record["growth"], folder / "scaling.png")


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    try:
        run(arguments(argv))
    except LVTError as error:
        return report(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
