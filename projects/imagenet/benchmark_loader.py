#!/usr/bin/env python
"""Times loading with token labels against timm's plain loader with the same augmentation.

The loaders take turns, so that whatever else the machine does falls on all of them; a figure is the
median over turns, a ratio the median of ratios within a turn. With --workers 0 it counts CPU time,
which other work on the machine disturbs less. Without DATA, noisy JPEGs of ImageNet's usual size
are made in a temporary folder; label maps are random.

    python projects/imagenet/benchmark_loader.py --images 512 --workers 2
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

PROJECT = Path(__file__).resolve().parent
sys.path[:0] = [str(PROJECT), str(PROJECT.parents[1])]  # a checkout needs no installation

import numpy as np  # noqa: E402
import torch  # noqa: E402
from lvt_imagenet.token_labels import (  # noqa: E402
    LabelMap,
    TokenLabelTarget,
    create_token_label_loader,
    open_labels,
    save_compact,
    save_official,
)
from PIL import Image  # noqa: E402
from tabulate import tabulate  # noqa: E402
from timm.data import create_dataset, create_loader  # noqa: E402

import lvt_d2  # noqa: E402, F401

AUGMENTATION = {  # of LVT's recipe
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "interpolation": "random",
    "re_prob": 0.25,
    "re_mode": "pixel",
}
_MAP = (5, 18, 18)  # of the published labels
_CLASS_FOLDERS = 4


def make_images(root: Path, count: int, size: tuple[int, int], seed: int) -> None:
    """Write JPEGs that compress about as photographs do (some 110 kB at 500x375)."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        coarse = rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
        pixels = np.asarray(Image.fromarray(coarse).resize(size, Image.BICUBIC), dtype=np.float32)
        pixels = np.clip(pixels + rng.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
        folder = root / f"class{number % _CLASS_FOLDERS}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number:06d}.jpg", quality=90)


def make_labels(images: Path, root: Path, num_classes: int, seed: int) -> None:
    """Write random label maps of all images, in both formats."""
    rng = np.random.default_rng(seed)
    compact = []
    for path in sorted(images.glob("*/*")):
        classes = rng.integers(0, num_classes - _MAP[0], _MAP[1:]) + np.arange(5)[:, None, None]
        label_map = LabelMap(rng.normal(4, 3, _MAP).astype(np.float16), classes.astype(np.int32))
        save_official(root / "official", path.parent.name, path.stem, label_map, num_classes)
        compact.append((f"{path.parent.name}/{path.stem}", label_map))
    (root / "compact").mkdir()
    save_compact(root / "compact/labels.tokenlabels", compact, num_classes)


def measure(
    loaders: dict[str, Iterable], images: int, turns: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Images/s of every loader in every turn, after one that does not count."""
    speeds: dict[str, list[float]] = {name: [] for name in loaders}
    for turn in range(turns + 1):
        for name, loader in loaders.items():
            start = clock()
            for _ in loader:
                pass
            if turn:
                speeds[name].append(images / (clock() - start))
    return speeds


def table(speeds: dict[str, list[float]]) -> str:
    """Medians, and ratios to the first loader."""
    plain = next(iter(speeds.values()))
    rows = []
    for name, values in speeds.items():
        ratios = [value / base for value, base in zip(values, plain, strict=True)]
        rows.append(
            (
                name,
                f"{statistics.median(values):.1f}",
                f"{statistics.median(ratios):.3f}",
                f"{min(ratios):.3f} to {max(ratios):.3f}",
            )
        )
    return tabulate(rows, ("loader", "images/s", "ratio", "range"), disable_numparse=True)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    args = parse_args(argv)
    device = torch.device(args.device)
    with tempfile.TemporaryDirectory() as temporary:
        images, labels = args.data, Path(temporary)
        if images is None:
            images = Path(temporary) / "images"
            make_images(images, args.images, tuple(args.image_size), seed=0)
        make_labels(images, labels, args.num_classes, seed=1)
        options = {
            **AUGMENTATION,
            "num_workers": args.workers,
            "device": device,
        }
        target = TokenLabelTarget(args.num_classes, args.img_size // 32)

        def labelled(name: str, target: Callable | None) -> Iterable:
            dataset = create_dataset("", images)
            store = open_labels(labels / name, args.num_classes)
            return create_token_label_loader(
                dataset, store, args.img_size, args.batch_size, target, **options
            )

        loaders = {
            "timm, plain": create_loader(
                create_dataset("", images), args.img_size, args.batch_size, True, **options
            ),
            "label maps, compact": labelled("compact", None),
            "label maps, official": labelled("official", None),
            "targets on the device, compact": labelled("compact", target),
        }
        count = len(next(iter(loaders.values()))) * args.batch_size
        clock = time.perf_counter if args.workers else time.process_time
        speeds = measure(loaders, count, args.turns, clock)
    print(
        f"{count} images a turn, {args.turns} turns, batches of {args.batch_size}, "
        f"{args.workers} workers, {args.num_classes} classes, device {device}; "
        f"{'wall-clock' if args.workers else 'CPU'} time"
    )
    print(table(speeds))


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("data", nargs="?", type=Path, help="folder CLASS/*.jpg; made where none is given")
    add("--images", type=int, default=512, help="images to make (%(default)s)")
    add("--image-size", type=int, nargs=2, default=(500, 375), help="their width and height")
    add("--img-size", type=int, default=224, help="side of crops (%(default)s)")
    add("--num-classes", type=int, default=1000, help="of targets (%(default)s)")
    add("--batch-size", type=int, default=32, help="(%(default)s)")
    add("--workers", type=int, default=2, help="(%(default)s)")
    add("--turns", type=int, default=5, help="timed passes of each loader (%(default)s)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    args = parser.parse_args(argv)
    if args.data is not None and not args.data.is_dir():
        parser.error(f"DATA {args.data} is no folder")
    return args


if __name__ == "__main__":
    main()
