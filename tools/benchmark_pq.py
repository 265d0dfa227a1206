"""Times panoptic quality on synthetic maps: this project's, and panopticapi's where importable.

Both run in one process and must give the same numbers. Three figures, in CPU time: of the maps
alone; of an evaluation, which has the prediction in memory and the ground truth in PNGs, where
panopticapi needs the prediction written and read again; and of PNGs of both.

    python tools/benchmark_pq.py --images 200
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout needs no installation

import lvt_d2  # noqa: E402, F401
from lvt_d2.data.panoptic_png import ids_to_rgb, read_panoptic_ids  # noqa: E402
from lvt_d2.evaluation import PanopticQuality  # noqa: E402

CATEGORIES = [{"id": i, "name": str(i), "isthing": int(i <= 80)} for i in range(1, 134)]
FIGURES = (
    "maps in memory (panopticapi: its time less that of decoding)",
    "evaluation (panopticapi: writing predictions included)",
    "PNGs of both",
)
_VOID_FRACTION = 0.05


def _scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, dict[int, int]]:
    """Stuff bands with wavy borders, ellipses on them, and some void: ids and their categories."""
    y, x = np.mgrid[:height, :width]
    wave = y + 12 * np.sin(x / rng.uniform(15, 60) + rng.uniform(0, 6))
    ids = np.zeros((height, width), dtype=np.int32)
    categories = {}

    def add(mask: np.ndarray, low: int, high: int) -> None:
        new_id = int(rng.integers(1, 2**24))
        ids[mask] = new_id
        categories[new_id] = int(rng.integers(low, high))

    borders = np.sort(rng.uniform(0, height, 4))
    for top, bottom in zip([-50, *borders], [*borders, height + 50], strict=True):
        add((wave >= top) & (wave < bottom), 81, 134)
    for _ in range(rng.integers(4, 16)):
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        ry, rx = rng.uniform(8, 90, 2)
        add(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1, 1, 81)
    ids[(wave % 100) < 100 * _VOID_FRACTION] = 0
    present = set(np.unique(ids).tolist())
    return ids, {i: c for i, c in categories.items() if i in present}


def _predicted(
    rng: np.random.Generator, ids: np.ndarray, categories: dict[int, int]
) -> tuple[np.ndarray, dict[int, int]]:
    """The scene moved by some pixels, with other ids, a tenth of the segments lost or renamed."""
    moved = np.roll(ids, tuple(rng.integers(-6, 7, 2)), axis=(0, 1))
    result, labels = np.zeros_like(moved), {}
    for number, (old_id, category) in enumerate(categories.items(), start=1):
        if rng.random() < 0.1:
            continue
        result[moved == old_id] = number
        wrong = rng.random() < 0.1
        labels[number] = int(rng.integers(1, 134)) if wrong else category
    return result, labels


def make_set(folder: Path, count: int, height: int, width: int, seed: int) -> None:
    """Write ``gt.json``, ``pred.json`` and their PNG folders ``gt`` and ``pred``."""
    rng = np.random.default_rng(seed)
    annotations = {"gt": [], "pred": []}
    for image_id in range(count):
        ids, categories = _scene(rng, height, width)
        name = f"{image_id:06d}.png"
        for part, (part_ids, labels) in {
            "gt": (ids, categories),
            "pred": _predicted(rng, ids, categories),
        }.items():
            (folder / part).mkdir(exist_ok=True)
            Image.fromarray(ids_to_rgb(part_ids)).save(folder / part / name)
            counts = np.unique(part_ids, return_counts=True)
            areas = dict(zip(*(c.tolist() for c in counts), strict=True))
            segments = [
                {"id": i, "category_id": c, "area": areas[i], "iscrowd": int(i % 23 == 0)}
                for i, c in labels.items()
            ]
            annotations[part].append(
                {"image_id": image_id, "file_name": name, "segments_info": segments}
            )
    for part, entries in annotations.items():
        content = {"annotations": entries, "categories": CATEGORIES, "images": []}
        (folder / f"{part}.json").write_text(json.dumps(content))


def _pairs(folder: Path) -> list[tuple[dict, dict]]:
    parts = (json.loads((folder / f"{p}.json").read_text())["annotations"] for p in ("gt", "pred"))
    return list(zip(*parts, strict=True))


def run_ours(folder: Path) -> tuple[dict[str, float], dict]:
    """CPU seconds by figure, and PQ."""
    quality = PanopticQuality(CATEGORIES)
    spent = dict.fromkeys(("prediction", "ground truth", "quality"), 0.0)

    def timed(name: str, function: Callable, *args):
        start = time.process_time()
        result = function(*args)
        spent[name] += time.process_time() - start
        return result

    for gt, pred in _pairs(folder):
        gt_path, pred_path = folder / "gt" / gt["file_name"], folder / "pred" / pred["file_name"]
        pred_ids = timed("prediction", read_panoptic_ids, str(pred_path))
        gt_ids = timed("ground truth", read_panoptic_ids, str(gt_path))
        segments = gt["segments_info"], pred["segments_info"]
        timed("quality", quality.update, gt_ids, segments[0], pred_ids, segments[1])
    seconds = (spent["quality"], spent["quality"] + spent["ground truth"], sum(spent.values()))
    return dict(zip(FIGURES, seconds, strict=True)), quality.summary()


def run_panopticapi(folder: Path) -> tuple[dict[str, float], dict] | None:
    """CPU seconds by figure, and PQ; None where panopticapi can't be imported."""
    try:
        from panopticapi.evaluation import pq_compute_single_core
        from panopticapi.utils import id2rgb
    except ImportError:
        return None
    categories = {c["id"]: c for c in CATEGORIES}
    pairs = _pairs(folder)
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        statistics = pq_compute_single_core(
            0, pairs, str(folder / "gt"), str(folder / "pred"), categories
        )
    from_pngs = time.process_time() - start

    start = time.process_time()
    for path in (*(folder / "gt").iterdir(), *(folder / "pred").iterdir()):
        np.asarray(Image.open(path))
    decoding = time.process_time() - start

    encoding = 0.0
    for path in (folder / "pred").iterdir():
        ids = read_panoptic_ids(str(path))
        start = time.process_time()
        Image.fromarray(id2rgb(ids)).save(io.BytesIO(), format="PNG")
        encoding += time.process_time() - start
    groups = (("All", None), ("Things", True), ("Stuff", False))
    summary = {name: statistics.pq_average(categories, kind)[0] for name, kind in groups}
    seconds = (from_pngs - decoding, from_pngs + encoding, from_pngs)
    return dict(zip(FIGURES, seconds, strict=True)), summary


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=200, help="(%(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("W", "H"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_set(folder, args.images, args.size[1], args.size[0], args.seed)
        ours, summary = run_ours(folder)
        other, other_summary = run_panopticapi(folder) or (None, None)

    rows = []
    for figure, seconds in ours.items():
        row = [figure, 1e3 * seconds / args.images]
        if other:
            row += [1e3 * other[figure] / args.images, other[figure] / seconds]
        rows.append(row)
    print(f"{args.images} maps of {args.size[0]}x{args.size[1]}, one process, CPU ms per image")
    headers = ["", "lvt_d2", "panopticapi", "speed-up"]
    print(tabulate(rows, headers=headers[: len(rows[0])], floatfmt=".2f", tablefmt="pipe"))
    values = ", ".join(f"{group} {100 * summary[group]['pq']:.3f}" for group in summary)
    print(f"PQ: {values}")
    if not other:
        print("panopticapi is not importable here, so there is nothing to compare with")
        return
    worst = max(
        abs(summary[group][metric] - other_summary[group][metric])
        for group in summary
        for metric in ("pq", "sq", "rq")
    )
    print(f"largest difference of any PQ, SQ or RQ, as fractions: {worst:.1e}")


if __name__ == "__main__":
    main()
