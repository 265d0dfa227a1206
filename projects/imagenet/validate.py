#!/usr/bin/env python
"""Measures the accuracy and the speed of an image classifier.

    validate.py DATA --checkpoint output/imagenet/best.pth     a file of train.py
    validate.py DATA --checkpoint lvt_imagenet.pth.tar         the official one
    validate.py DATA --checkpoint lvt_cls.onnx                 an ONNX file

DATA is a folder with val/CLASS/*.jpg, or one with CLASS/*.jpg itself, or what --dataset says. The
model, its classes and the size of images are taken from the checkpoint where it tells them; options
change them. Classes go by the names of their folders: the checkpoint's own order where it has one,
else the alphabet's (--class-map FILE: a name a line, in order).
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # also where it is not installed
sys.path.insert(0, str(Path(__file__).resolve().parent))

import lvt_d2  # noqa: F401, I001  decides which engine answers, and registers LVT's models in timm
from detectron2.utils.logger import setup_logger
from lvt_d2.errors import ConfigError
from lvt_imagenet import distributed
from lvt_imagenet.evaluation import RealLabels, evaluate
from lvt_imagenet.loaders import eval_loader
from lvt_imagenet.records import read_rows
from lvt_imagenet.settings import add_options, create_parser, given_options, parse
from lvt_imagenet.validation import open_classifier, open_images, settings_of

OPTIONS = {
    "model": ("model", "num_classes", "in_chans", "img_size", "model_kwargs", "channels_last"),
    "data": ("dataset", "val_split", "class_map", "input_key", "target_key", "download",
             "batch_size", "workers"),
    "images": ("crop_pct", "interpolation", "mean", "std"),
    "run": ("device", "amp"),
}  # fmt: skip
COLUMNS = (
    "checkpoint", "weights", "model", "data", "img_size", "crop_pct", "top1", "top5", "loss",
    "real_top1", "images", "unreadable", "images_per_second", "model_images_per_second", "device",
    "amp", "batch_size",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    return distributed.run(lambda: validate(parse_args(argv)))


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = create_parser(__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="F", help="what to evaluate")
    parser.add_argument("--ema", action="store_true", default=False, help="its averaged weights")
    parser.add_argument("--real-labels", default=None, metavar="JSON", help="reassessed labels")
    parser.add_argument("--results", type=Path, default=None, metavar="CSV", help="add a row to it")
    add_options(parser, OPTIONS)
    return parse(parser, argv)


def validate(args: argparse.Namespace) -> None:
    """Evaluate, print, and write a row of results."""
    setup_logger(name="lvt_imagenet")
    if args.results is not None:
        check_results(args.results)
    settings, weights = settings_of(args.checkpoint, args.ema, args.data, given_options(args))
    device = distributed.pick_device(settings.device)
    classify, num_classes = open_classifier(settings, weights, device)
    dataset = open_images(settings, weights, num_classes)
    loader = eval_loader(dataset, settings, num_classes, device)
    observers = []
    if args.real_labels:
        observers = [RealLabels(args.real_labels, dataset.filename)]
    result = evaluate(classify, loader, settings.amp, observers)
    row = {
        **result,
        "checkpoint": args.checkpoint,
        "weights": "averaged" if args.ema else "",
        "model": settings.model,
        "data": settings.data or settings.dataset,
        "img_size": "x".join(map(str, settings.img_size)),
        "crop_pct": settings.crop_pct,
        "real_top1": observers[0].accuracy if observers else "",
        "unreadable": loader.unreadable,
        "device": str(device),
        "amp": settings.amp,
        "batch_size": settings.batch_size,
    }
    report(row)
    if args.results is not None:
        append(args.results, row)


def report(row: dict) -> None:
    """Print the result."""
    print(f"{row['checkpoint']} on {row['images']} images of {row['data']}, {row['img_size']}")
    real = f"   ReaL {row['real_top1']:.3f} %" if row["real_top1"] != "" else ""
    print(f"top-1 {row['top1']:.3f} %   top-5 {row['top5']:.3f} %   loss {row['loss']:.4f}{real}")
    print(
        f"{row['images_per_second']:.1f} images/s, "
        f"{row['model_images_per_second']:.1f} without loading, batches of {row['batch_size']}"
    )
    if row["unreadable"]:
        print(
            f"{row['unreadable']} images could not be read and were left out; they are named above"
        )


def check_results(path: Path) -> None:
    """Find out before the work that a row can't be added.

    Raises:
        ConfigError: it can't.
    """
    rows = read_rows(path) if path.exists() and not path.is_dir() else []
    if rows and tuple(rows[0]) != COLUMNS:
        raise ConfigError(
            f"--results {path} has the columns {', '.join(rows[0])}; expected "
            f"{', '.join(COLUMNS)}. Name another file"
        )
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"--results {path} is a folder, or has none to be in; name a file")


def append(path: Path, row: dict) -> None:
    """Add a row to a CSV file, which gets a head if it is new."""
    is_new = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if is_new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    sys.exit(main())
