#!/usr/bin/env python
"""Times the semantic evaluator on full-resolution probability maps against plainer ways.

    python tools/benchmark_semantic.py --images 8 --rounds 5 --json semantic.json

All ways get the same maps in memory and the same label PNGs, must give the same confusion matrix,
and take turns, so that what else the machine does hits all of them: figures are medians over
rounds, speed-ups medians of the ratios within a round. The peak memory is that of a fresh process.
"""

import argparse
import json
import multiprocessing
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout needs no installation

import lvt_d2  # noqa: E402, F401  (decides which engine answers to `detectron2`)

# isort: split
import numpy as np  # noqa: E402
import torch  # noqa: E402
from detectron2.data import DatasetCatalog, MetadataCatalog  # noqa: E402
from detectron2.evaluation import SemSegEvaluator  # noqa: E402
from PIL import Image  # noqa: E402
from tabulate import tabulate  # noqa: E402

from lvt_d2.evaluation import SemanticEvaluator  # noqa: E402
from lvt_d2.evaluation.confusion import best_classes  # noqa: E402

DATASET = "benchmark_semantic"
IGNORED = 255
OURS = "lvt_d2, scores"


def make_set(folder: Path, count: int, classes: int, size: tuple[int, int], seed: int) -> None:
    """Write blocky label maps with some void as PNGs, and register them."""
    rng = np.random.default_rng(seed)
    records = []
    for number in range(count):
        blocks = rng.integers(0, classes, (size[0] // 32 + 1, size[1] // 32 + 1))
        labels = blocks.repeat(32, axis=0).repeat(32, axis=1)[: size[0], : size[1]]
        labels[rng.random(size) < 0.02] = IGNORED
        path = folder / f"{number:03d}.png"
        Image.fromarray(labels.astype(np.uint8)).save(path)
        record = {"file_name": f"{number:03d}.jpg", "sem_seg_file_name": str(path)}
        records.append(record | {"height": size[0], "width": size[1]})
    if DATASET in DatasetCatalog:
        DatasetCatalog.remove(DATASET)
        MetadataCatalog.remove(DATASET)
    DatasetCatalog.register(DATASET, lambda: records)
    names = [str(k) for k in range(classes)]
    MetadataCatalog.get(DATASET).set(stuff_classes=names, ignore_label=IGNORED)


def make_map(classes: int, size: tuple[int, int], seed: int, device: str) -> torch.Tensor:
    """Probabilities (K, H, W), without a second array of that size on the way."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.empty(classes, *size).uniform_(generator=generator)
    scores /= scores.sum(dim=0)
    return scores.to(device)


def evaluator_way(evaluator) -> Callable:
    """Run an evaluator over all images; mIoU in percent."""

    def way(records: list[dict], maps: Sequence[torch.Tensor]) -> float:
        evaluator.reset()
        for i, record in enumerate(records):
            evaluator.process([record], [{"sem_seg": maps[i % len(maps)]}])
        return evaluator.evaluate()["sem_seg"]["mIoU"]

    return way


def bincount_way(argmax: Callable[[torch.Tensor], np.ndarray]) -> Callable:
    """Accumulate ``np.bincount`` image by image; mIoU in percent."""

    def way(records: list[dict], maps: Sequence[torch.Tensor]) -> float:
        count = len(maps[0])
        confusion = np.zeros((count, count), dtype=np.int64)
        for i, record in enumerate(records):
            predicted = argmax(maps[i % len(maps)])
            true = np.array(Image.open(record["sem_seg_file_name"]), dtype=np.int64)
            valid = true != IGNORED
            joint = predicted[valid] * count + true[valid]
            confusion += np.bincount(joint, minlength=count**2).reshape(count, count)
        correct, true = confusion.diagonal(), confusion.sum(axis=0)
        union = true + confusion.sum(axis=1) - correct
        return float(100 * (correct[true > 0] / union[true > 0]).mean())

    return way


def labels_way() -> Callable:
    """Our evaluator on label maps, as the segmentor with ``labels_only`` gives them."""
    way = evaluator_way(SemanticEvaluator(DATASET, distributed=False))
    made: dict[int, torch.Tensor] = {}

    def with_labels(records: list[dict], maps: Sequence[torch.Tensor]) -> float:
        return way(records, [made[id(scores)] for scores in maps])

    def prepare(maps: Sequence[torch.Tensor]) -> None:
        made.update({id(scores): best_classes(scores) for scores in maps})

    with_labels.prepare = prepare
    return with_labels


def make_ways() -> dict[str, Callable]:
    """All ways by name, ours first."""
    return {
        OURS: evaluator_way(SemanticEvaluator(DATASET, distributed=False)),
        "lvt_d2, labels of the model": labels_way(),
        "NumPy's argmax, np.bincount": bincount_way(lambda scores: scores.cpu().numpy().argmax(0)),
        "PyTorch's argmax, np.bincount": bincount_way(lambda s: s.argmax(dim=0).cpu().numpy()),
        "SemSegEvaluator (boundary IoU, RLE)": evaluator_way(
            SemSegEvaluator(DATASET, distributed=False)
        ),
    }


def _prepare(way: Callable, maps: Sequence[torch.Tensor]) -> None:
    if hasattr(way, "prepare"):
        way.prepare(maps)


def time_ways(args: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Milliseconds an image of every round, and mIoU, by way."""
    maps = [make_map(args.classes, args.size, seed, args.device) for seed in range(args.maps)]
    records, ways = DatasetCatalog.get(DATASET), make_ways()
    spent, results = {name: [] for name in ways}, {}
    for way in ways.values():
        _prepare(way, maps)
        way(records[:1], maps)  # warm up
    names = list(ways)
    for turn in range(args.rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            results[name] = ways[name](records, maps)
            spent[name].append(1e3 * (time.perf_counter() - start) / len(records))
    return spent, results


def peak_memory(name: str, folder: str, args: argparse.Namespace) -> float | None:
    """MB that a way takes at most beside a map, in a process of its own; None where unknown."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak_memory, (name, folder, args))


def _peak_memory(name: str, folder: str, args: argparse.Namespace) -> float | None:
    for size in ((8, 8), args.size):  # what is loaded on first use is not the evaluation's
        make_set(Path(folder), 2, args.classes, size, args.seed)
        records, way = DatasetCatalog.get(DATASET), make_ways()[name]
        maps = [make_map(args.classes, size, 0, args.device)]
        _prepare(way, maps)
        if size != args.size:
            way(records, maps)
    if args.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way(records, maps)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    except OSError:
        return None
    before = _status("VmRSS")
    way(records, maps)
    return (_status("VmHWM") - before) / 1e3


def _status(key: str) -> int:
    """KB of an entry of Linux' table of this process."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)[1])


def summarize(
    spent: dict[str, list[float]], results: dict[str, float], memory: dict[str, float | None]
) -> list[dict]:
    """A row of figures for every way."""
    return [
        {
            "way": name,
            "ms_per_image": statistics.median(values),
            "our_speed_up": statistics.median(
                v / ours for v, ours in zip(values, spent[OURS], strict=True)
            ),
            "peak_mb": memory[name],
            "miou": results[name],
        }
        for name, values in spent.items()
    ]


def size_argument(text: str) -> tuple[int, int]:
    """(H, W) of ``HxW``."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected HEIGHTxWIDTH")
    return int(match[1]), int(match[2])


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit status, 1 where the numbers differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--maps", type=int, default=2, help="different ones (%(default)s)")
    parser.add_argument("--classes", type=int, default=150, help="(%(default)s)")
    parser.add_argument("--size", type=size_argument, default=(512, 683), metavar="HxW")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        make_set(Path(folder), args.images, args.classes, args.size, args.seed)
        spent, results = time_ways(args)
        memory = {name: peak_memory(name, folder, args) for name in spent}
    rows = summarize(spent, results, memory)
    shape = f"{args.classes}x{args.size[0]}x{args.size[1]}"
    print(
        f"{args.images} probability maps of {shape} on {args.device}, labels from PNGs, "
        f"{torch.get_num_threads()} threads; medians of {args.rounds} rounds"
    )
    print(
        tabulate(
            [list(row.values()) for row in rows],
            headers=["", "ms per image", "times ours", "peak memory [MB]", "mIoU"],
            floatfmt=("", ".1f", ".2f", ".1f", ".9f"),
            missingval="not measured",
            tablefmt="pipe",
        )
    )
    if args.json is not None:
        setting = {"shape": shape, "images": args.images, "rounds": args.rounds}
        setting |= {"device": args.device, "threads": torch.get_num_threads()}
        setting |= {"machine": platform.processor() or platform.machine()}
        args.json.write_text(json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n")
    worst = max(abs(row["miou"] - rows[0]["miou"]) for row in rows)
    print(f"largest difference of mIoU, in percent points: {worst:.1e}")
    return int(worst > 1e-9)


if __name__ == "__main__":
    sys.exit(main())
