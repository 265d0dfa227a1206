#!/usr/bin/env python
"""Counts parameters, multiply-adds and activations of the models of configs, module by module.

    python tools/analyze_model.py --config-file configs/panoptic_lvt.py --size 800x1200 512x512
    python tools/analyze_model.py --config-file configs/panoptic_lvt.py --part model.backbone

Two rules for multiply-adds stand beside each other: the one of the published figures, and fvcore's;
what they count is printed under the tables. Overrides of the config follow the options.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout needs no installation

import lvt_d2  # noqa: E402, F401  (decides which engine answers to `detectron2`)

# isort: split
from detectron2.config import instantiate  # noqa: E402
from omegaconf import DictConfig, OmegaConf  # noqa: E402
from torch import nn  # noqa: E402

from lvt_d2.analysis import RULES, Analysis, analyze, as_dict, as_markdown  # noqa: E402
from lvt_d2.analysis.report import rules_as_markdown  # noqa: E402
from lvt_d2.engine import load_config  # noqa: E402
from lvt_d2.engine.launch import report  # noqa: E402
from lvt_d2.errors import ConfigError, LVTError  # noqa: E402


def parse_size(text: str) -> tuple[int, int]:
    """(H, W) of ``HxW``.

    Raises:
        ConfigError: it is no size.
    """
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise ConfigError(
            f"--size {text} is no size; expected HEIGHTxWIDTH in pixels, such as 512x512"
        )
    return int(match[1]), int(match[2])


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line; ``opts`` are the overrides, wherever they stand."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, nargs="+", metavar="F")
    parser.add_argument(
        "--size",
        nargs="+",
        default=[],
        metavar="HxW",
        help="height x width of the image in pixels, before the model pads it (that of the "
        "published figures: 800x1200 for detectors, else 512x512)",
    )
    parser.add_argument(
        "--part", default="model", metavar="KEY", help="key of what is analyzed (%(default)s)"
    )
    parser.add_argument("--depth", type=int, default=2, help="levels of modules (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all modules there, too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there, too")
    parser.add_argument(
        "--no-fvcore", action="store_true", help="published rule only, which computes nothing"
    )
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")
    args = parser.parse_args(argv)
    if args.depth < 0:
        parser.error(f"--depth is {args.depth}; it must be at least 0")
    for name in ("config_file", "size"):  # these take all words behind them
        words = getattr(args, name)
        args.opts += [word for word in words if "=" in word]
        setattr(args, name, [word for word in words if "=" not in word])
    return args


def build_part(path: str, part: str, overrides: Sequence[str]) -> nn.Module:
    """Build the module that a config describes under a key.

    Raises:
        ConfigError: the config can't be loaded or lacks the key, or no module is described there.
    """
    config = load_config(path, overrides)
    node = OmegaConf.select(config, part)
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise ConfigError(
            f"{path} describes no module under {part!r}; --part is a key such as model, "
            "model.backbone or model.sem_seg_head"
        )
    module = instantiate(node)
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"{part} of {path} is a {type(module).__name__}; only modules are analyzed"
        )
    return module


def analyze_part(
    module: nn.Module, size: tuple[int, int] | None, with_fvcore: bool, title: str
) -> Analysis:
    """Analyze a module.

    Raises:
        ConfigError: it can't be called with an image of that size.
    """
    try:
        return analyze(module, size, with_fvcore)
    except LVTError:
        raise
    except Exception as error:  # whatever a module makes of arguments that it isn't made for
        at = f" at {size[0]}x{size[1]}" if size else ""
        raise ConfigError(
            f"{title} can't be analyzed{at} ({type(error).__name__}: {error}); expected a model, "
            "or a part of one that is called with an image, of a size that it takes"
        ) from error


def run(args: argparse.Namespace) -> None:
    """Analyze every config at every size, print the tables, and write the files asked for."""
    sizes = [parse_size(text) for text in args.size] or [None]
    with_fvcore = not args.no_fvcore
    sections, records = [], []
    for path in args.config_file:
        title = path if args.part == "model" else f"{path}, {args.part}"
        module = build_part(path, args.part, args.opts)
        for size in sizes:
            analysis = analyze_part(module, size, with_fvcore, title)
            sections.append(as_markdown(title, analysis, args.depth))
            records.append(as_dict(title, analysis))
            print(f"{sections[-1]}\n", flush=True)
    sections.append(rules_as_markdown(with_fvcore))
    print(sections[-1])
    if args.markdown is not None:
        args.markdown.write_text("\n\n".join(sections) + "\n")
    if args.json is not None:
        args.json.write_text(json.dumps({"rules": RULES, "models": records}, indent=1) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    try:
        run(arguments(argv))
    except LVTError as error:
        return report(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
