"""How time and memory grow with the size of the image and with the batch; a plot of it."""

from collections.abc import Iterable
from pathlib import Path

import torch

from benchmarks import backbones
from benchmarks.measure import exponent, interleaved, peak_memory, summarize
from lvt_d2.analysis import analyze
from lvt_d2.modeling import LVT

SIDES = (224, 320, 448, 640, 800, 1120, 1600)
BATCHES = (1, 2, 4, 8, 16, 32)
BATCH_SIDE = 224
CONTENDERS = ("textbook", "eager")


def measure(
    device: torch.device,
    sides: Iterable[int] = SIDES,
    batches: Iterable[int] = BATCHES,
    seconds: float = 10.0,
) -> dict:
    """Times and peaks of inference over square images and over batches.

    Args:
        device: where.
        sides: of one image, in pixels.
        batches: of images of `BATCH_SIDE` pixels.
        seconds: about as long as a point may take.

    Returns:
        ``"sides"`` and ``"batches"``: for each contender its points ``x``, ``ns_per_pixel``,
        ``bytes_per_pixel``; ``"exponents"``: of both over the pixels of an image, with those of
        the multiply-adds, in which attention is quadratic.
    """
    sides, batches = list(sides), list(batches)
    over_sides = _points(device, [(1, side) for side in sides], seconds)
    over_batches = _points(device, [(batch, BATCH_SIDE) for batch in batches], seconds)
    pixels = [side * side for side in sides]
    exponents = {}
    for name, points in over_sides.items():
        for figure in ("ns_per_pixel", "bytes_per_pixel"):
            exponents[f"{name}, {figure}"] = exponent(pixels, points[figure])
    counts = [_multiply_adds(side) / count for side, count in zip(sides, pixels, strict=True)]
    exponents["multiply-adds per pixel"] = exponent(pixels, counts)
    return {
        "sides": {"x": sides, **over_sides},
        "batches": {"x": batches, **over_batches},
        "exponents": exponents,
    }


def _multiply_adds(side: int) -> int:
    return analyze(LVT(), (side, side), fvcore=False).total.published


def _points(
    device: torch.device, sizes: list[tuple[int, int]], seconds: float
) -> dict[str, dict[str, list[float]]]:
    found = {name: {"ns_per_pixel": [], "bytes_per_pixel": []} for name in CONTENDERS}
    textbook, lvt = backbones.pair(device)
    for batch, side in sizes:
        x = torch.randn(batch, 3, side, side, device=device)
        contenders = {
            "textbook": backbones.inference(textbook, x),
            "eager": backbones.inference(lvt, x, "eager"),
        }
        times = interleaved(contenders, seconds, (3, 21), device)
        peaks = {name: peak_memory(c, device) for name, c in contenders.items()}
        for row in summarize(times, peaks, "textbook", batch):
            pixels = batch * side * side
            found[row.name]["ns_per_pixel"].append(1e9 * row.median / pixels)
            found[row.name]["bytes_per_pixel"].append(row.peak / pixels)
    return found


def as_markdown(growth: dict) -> str:
    """Tables of the points, and the exponents."""
    lines = []
    for axis, title in (("sides", "side of one image"), ("batches", f"batch at {BATCH_SIDE}")):
        names = [name for name in growth[axis] if name != "x"]
        head = [f"{n}, {unit}" for n in names for unit in ("ns a pixel", "bytes a pixel")]
        lines += [
            "",
            f"| {title} | {' | '.join(head)} |",
            "| ---: |" + " ---: |" * len(head),
        ]
        for i, x in enumerate(growth[axis]["x"]):
            cells = [
                f"{growth[axis][name][figure][i]:.1f}"
                for name in names
                for figure in ("ns_per_pixel", "bytes_per_pixel")
            ]
            lines.append(f"| {x} | {' | '.join(cells)} |")
    lines += ["", "Exponent over the pixels of an image (0: proportional to the pixels):", ""]
    lines += [f"- {name}: {value:+.3f}" for name, value in growth["exponents"].items()]
    return "\n".join(lines)


def plot(growth: dict, path: Path) -> None:
    """Write a PNG: time and memory per pixel over the size of the image and over the batch."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7), sharey="row")
    labels = {"ns_per_pixel": "time [ns a pixel]", "bytes_per_pixel": "peak memory [bytes a pixel]"}
    titles = {"sides": "side of one image [pixels]", "batches": f"images of {BATCH_SIDE} pixels"}
    for column, axis in enumerate(titles):
        for row, (key, label) in enumerate(labels.items()):
            panel = axes[row][column]
            for name in (n for n in growth[axis] if n != "x"):
                text = name
                if axis == "sides":
                    text += f", pixels^{growth['exponents'][f'{name}, {key}']:+.2f}"
                panel.plot(growth[axis]["x"], growth[axis][name][key], marker="o", label=text)
            panel.set_xscale("log", base=2)
            panel.set_xticks(growth[axis]["x"], [str(x) for x in growth[axis]["x"]])
            panel.minorticks_off()
            panel.set_ylim(bottom=0)
            panel.set_xlabel(titles[axis])
            panel.grid(alpha=0.3)
            panel.legend()
            if column == 0:
                panel.set_ylabel(label)
    figure.suptitle("Inference of the backbone, float32")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
