#!/usr/bin/env python
"""Write token labels of a training set, with any classifier of timm as the annotator.

Each image is shown as a whole, squeezed to the annotator's size; a label map has the 5 best classes
of every cell of its last map. What an earlier run has written is left alone, so an interrupted run
goes on when it is started again. Under torchrun, or with --shard, every process does its part:

  make_token_labels.py DATA --model NAME --output LABELS
  torchrun --nproc-per-node 8 projects/imagenet/make_token_labels.py DATA --model NAME ...
"""

import argparse
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parent
sys.path[:0] = [str(PROJECT), str(PROJECT.parents[1])]  # a checkout needs no installation

import timm  # noqa: E402
import torch  # noqa: E402
from lvt_imagenet.data import open_train  # noqa: E402
from lvt_imagenet.distributed import pick_device, run  # noqa: E402
from lvt_imagenet.kinds import arguments  # noqa: E402
from lvt_imagenet.settings import Parser, parse  # noqa: E402
from lvt_imagenet.token_labels import open_labels  # noqa: E402
from lvt_imagenet.token_labels.annotate import Summary, annotate, copy_maps  # noqa: E402
from lvt_imagenet.token_labels.annotator import DenseAnnotator  # noqa: E402
from lvt_imagenet.token_labels.info import write_info  # noqa: E402
from lvt_imagenet.token_labels.names import class_names, image_names  # noqa: E402
from lvt_imagenet.token_labels.output import (  # noqa: E402
    CompactOutput,
    Names,
    OfficialOutput,
    Output,
    check_unique,
)
from lvt_imagenet.weights import load_weights, read_weights  # noqa: E402
from timm.data import ImageDataset, create_transform, resolve_model_data_config  # noqa: E402

import lvt_d2  # noqa: E402, F401
from lvt_d2.errors import ConfigError, DatasetError  # noqa: E402

_NAMED = 20  # unreadable images that the summary names
_ENOUGH = 100  # images that tell whether the annotator's classes are the data set's


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    return run(lambda: _main(argv), "; start again with the same options to go on.")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line.

    Raises:
        ConfigError: they can't be what the user means.
    """
    summary, _, details = __doc__.partition("\n\n")
    parser = Parser(
        description=summary,
        epilog=details,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("data", nargs="?", help="folder of the data set, as for train.py")
    add("--dataset", default="", help="as timm names it: empty is a folder (or .tar), hfds/NAME")
    add("--train-split", default="train", help="name of the part to label (%(default)s)")
    add("--class-map", help="file with a class name a line, in order")
    add("--input-key", help="where a sample has its image (hfds)")
    add("--target-key", help="where a sample has its class (hfds)")
    add("--download", action="store_true", help="let data sets that can do so download themselves")
    add("--model", default="lvt_cls", help="the annotator, any classifier of timm (%(default)s)")
    add("--checkpoint", type=Path, help="its weights; without, those that timm downloads")
    add("--ema", action="store_true", help="take the checkpoint's averaged weights")
    add("--model-kwargs", nargs="+", metavar="NAME=VALUE", help="other arguments of the model")
    add(
        "--from-labels",
        type=Path,
        metavar="LABELS",
        help="no annotator: take the label maps of a folder in either format, as the published one",
    )
    add("--input-size", type=_count, metavar="PX", help="side of its images; the model's own")
    add("--raw-scores", action="store_true", help="keep logits as they are; by default the mean "
        "of all classes but the best is shifted to 0, for which a target takes them")  # fmt: skip
    add("--output", type=Path, default=Path("output/token_labels"), help="folder (%(default)s)")
    add("--format", choices=("compact", "official"), default="compact",
        help="compact: *.tokenlabels files; official: CLASS/IMAGE.pt (%(default)s)")  # fmt: skip
    add("--images-per-file", type=_count, default=1000, help="of the compact format (%(default)s)")
    add("--shard", type=_shard, help="I/N: do the I-th of N parts, from 0; torchrun's process")
    add("--batch-size", type=_count, default=64, help="(%(default)s)")
    add("--workers", type=int, default=4, help="processes that read images (%(default)s)")
    add("--device", choices=("cpu", "cuda"), help="a GPU where there is one")
    add("--amp", choices=("none", "float16", "bfloat16"), default="none", help="(%(default)s)")
    return parse(parser, argv)


def make_model(
    args: argparse.Namespace, classes: Sequence[str], device: torch.device
) -> torch.nn.Module:
    """The annotator with its weights.

    Args:
        args: the command line.
        classes: names of the data set's, in order; empty where it does not tell.
        device: where it goes.

    Raises:
        ConfigError: timm has no such model, or can't get weights.
        CheckpointError: the checkpoint does not fit.
        DatasetError: the model knows other classes.
    """
    kwargs = arguments(args.model_kwargs)
    weights = read_weights(str(args.checkpoint), args.ema) if args.checkpoint else None
    if weights and classes:
        kwargs.setdefault("num_classes", len(classes))
        check_same_classes(weights.classes, classes, args.checkpoint)
    try:
        model = _create(args, kwargs)
    except Exception as error:  # timm and its downloads raise anything
        raise ConfigError(
            f"The model {args.model} can't be made ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}). Expected a classifier of timm, and "
            "--checkpoint FILE where timm has no weights or the machine no network."
        ) from error
    if weights:
        load_weights(model, weights)
    if classes and model.num_classes != len(classes):
        raise DatasetError(
            f"The annotator {args.model} knows {model.num_classes} classes, but the data set has "
            f"{len(classes)}; token labels need the same classes in the same order. Fine-tune it "
            "on this data set first, and give --checkpoint."
        )
    return model.to(device).eval()


def check_same_classes(theirs: Sequence[str], ours: Sequence[str], checkpoint: Path) -> None:
    """Raise a `DatasetError` if a checkpoint tells other classes than the data set."""
    odd = next((pair for pair in zip(theirs, ours, strict=False) if len(set(pair)) == 2), None)
    if theirs and (odd or len(theirs) != len(ours)):
        example = f", for example {odd[0]!r} in place of {odd[1]!r}" if odd else ""
        raise DatasetError(
            f"{checkpoint} was trained on {len(theirs)} classes that are not the {len(ours)} of "
            f"the data set in their order{example}. Give the --class-map of its training."
        )


def _create(args: argparse.Namespace, kwargs: dict) -> torch.nn.Module:
    pretrained = args.checkpoint is None
    if args.input_size is None:
        return timm.create_model(args.model, pretrained=pretrained, **kwargs)
    try:  # transformers must know their size, and convolutional networks refuse it
        sized = {"img_size": args.input_size, **kwargs}
        return timm.create_model(args.model, pretrained=pretrained, **sized)
    except TypeError:
        return timm.create_model(args.model, pretrained=pretrained, **kwargs)


def _main(argv: Sequence[str] | None) -> None:
    args = parse_args(argv)
    shard, shards = args.shard or (
        int(os.environ.get("RANK", 0)),
        int(os.environ.get("WORLD_SIZE", 1)),
    )
    device = pick_device(args.device)
    # What `open_train` asks beside the options here has no meaning for files read one by one.
    rest = {"seed": 0, "num_samples": None, "in_chans": 3}
    dataset = open_train(argparse.Namespace(**vars(args), **rest))
    if not isinstance(dataset, ImageDataset):
        raise ConfigError(
            f"The data set is a {type(dataset).__name__}, which does not tell file names; expected "
            "a folder, tar files or hfds/. Labels of a folder serve its wds/ copy too: names agree."
        )
    names = image_names(dataset.reader)
    check_unique(names)
    numbered = class_names(dataset.reader)
    classes = [numbered[number] for number in sorted(numbered)]
    args.output.mkdir(parents=True, exist_ok=True)
    if args.from_labels:
        write_info(args.output, {"format": args.format, "classes": classes})
        output = _output(args, names, len(classes), shard, shards)
        copied, missing = copy_maps(open_labels(args.from_labels, len(classes)), names, output)
        print(
            f"{copied:,} label maps of {args.from_labels} written into {args.output}, "
            f"{output.done:,} done by earlier runs, {missing:,} images without."
        )
        return
    model = make_model(args, classes, device)
    annotator = DenseAnnotator(model, args.raw_scores)
    overrides = {"input_size": (3, args.input_size, args.input_size)} if args.input_size else {}
    config = resolve_model_data_config(model, overrides)
    shape = annotator(torch.zeros(1, *config["input_size"], device=device))[0].shape[1:]
    write_info(args.output, _info(args, config, classes, model.num_classes, tuple(shape)))
    transform = create_transform(  # 'squash' and 1.0: the map is of the whole image
        config["input_size"],
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        crop_pct=1.0,
        crop_mode="squash",
    )
    summary = annotate(
        annotator,
        dataset,
        _output(args, names, model.num_classes, shard, shards),
        transform,
        args.batch_size,
        args.workers,
        None if args.amp == "none" else getattr(torch, args.amp),
        progress=shard == 0,
    )
    _report(summary, args.output, shard, shards, model.num_classes)


def _output(
    args: argparse.Namespace, names: Names, num_classes: int, shard: int, shards: int
) -> Output:
    if args.format == "official":
        return OfficialOutput(args.output, names, num_classes, shard, shards)
    return CompactOutput(args.output, names, num_classes, shard, shards, args.images_per_file)


def _info(
    args: argparse.Namespace,
    config: dict,
    classes: list[str],
    num_classes: int,
    shape: tuple[int, ...],
) -> dict:
    return {
        "annotator": args.model,
        "checkpoint": args.checkpoint.name if args.checkpoint else None,
        "ema": args.ema,
        "format": args.format,
        "input_size": list(config["input_size"]),
        "num_classes": num_classes,
        "raw_scores": args.raw_scores,
        "shape": list(shape),
        "classes": classes,
    }


def _report(summary: Summary, output: Path, shard: int, shards: int, num_classes: int) -> None:
    process = f"Part {shard} of {shards}: " if shards > 1 else ""
    print(
        f"{process}{summary.written:,} images labelled into {output}, {summary.done:,} done by "
        f"earlier runs, {len(summary.unreadable):,} unreadable."
    )
    for name in summary.unreadable[:_NAMED]:
        print(f"  unreadable: {name}")
    if len(summary.unreadable) > _NAMED:
        print(f"  ... and {len(summary.unreadable) - _NAMED:,} more; the log names them all")
    if summary.written:
        share = summary.agreeing / summary.written
        print(f"The annotator's class is the data set's for {share:.1%} of them.")
        if summary.written >= _ENOUGH and share < 1.5 / num_classes:
            print(
                "That is no better than chance: the annotator's classes are probably in another "
                "order than the data set's (see --class-map), or it has not been trained."
            )


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number, 1 or more")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    parts = re.fullmatch(r"(\d+)/(\d+)", text)
    if not parts or int(parts[1]) >= int(parts[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no part I/N with I from 0 to N - 1")
    return int(parts[1]), int(parts[2])


if __name__ == "__main__":
    sys.exit(main())
