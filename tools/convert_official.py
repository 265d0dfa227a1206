#!/usr/bin/env python
"""Convert an official LVT checkpoint into this project's format.

Takes any of the four published files (ImageNet classifier, its backbone, SegFormer, Panoptic FPN);
the kind is detected from the parameter names, and every one of them must be accounted for. Nothing
that is pickled in the file is executed. The result goes where checkpoints go
(``train.init_checkpoint=DST``).
"""

import argparse
import hashlib
import os
import re
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import torch

import lvt_d2
from lvt_d2.checkpoint.official import KINDS, Converted, convert_official
from lvt_d2.checkpoint.safe_load import read_checkpoint
from lvt_d2.errors import CheckpointError, LVTError


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    args = parse_args(argv)
    try:
        check_destination(args.src, args.dst, args.force)
        converted = convert_official(read_checkpoint(args.src), ema=args.ema)
        origin = {
            "kind": converted.kind,
            "source": args.src.name,
            "source_sha256": sha256(args.src),
            "weights": converted.weights,
            "version": lvt_d2.__version__,
        }
        save(args.dst, {"model": converted.model, "lvt_d2": origin})
    except (LVTError, OSError) as error:
        print(f"convert_official.py: {args.src} was not converted. {error}", file=sys.stderr)
        return getattr(error, "exit_status", 1)
    print(f"{args.src}: {KINDS[converted.kind]}, weights from {converted.weights or 'the file'}")
    print(names_table(converted) if args.list else summary_table(converted))
    print(f"Wrote {args.dst} ({args.dst.stat().st_size:,} bytes)")
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    summary, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog=details)
    parser.add_argument("src", type=Path, metavar="SRC", help="official file (.pth, .pth.tar)")
    parser.add_argument("dst", type=Path, metavar="DST", help="file to write (.pth)")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights")
    parser.add_argument("--force", action="store_true", help="overwrite DST")
    parser.add_argument("--list", action="store_true", help="print every parameter's two names")
    return parser.parse_args(argv)


def check_destination(src: Path, dst: Path, force: bool) -> None:
    """Find out that the result can't be written before the work is done.

    Raises:
        CheckpointError: DST exists, is SRC, has an ending of another format, or has no folder.
    """
    if dst.suffix in (".pkl", ".pyth"):
        raise CheckpointError(
            f"DST {dst} ends in {dst.suffix}, which Detectron2 reads as another format; use .pth."
        )
    if not dst.parent.is_dir():
        raise CheckpointError(f"The folder {dst.parent} of DST does not exist; create it first.")
    if dst.exists() and src.exists() and dst.samefile(src):
        raise CheckpointError(f"DST {dst} is SRC itself; give the result another name.")
    if dst.is_dir() or (dst.exists() and not force):
        raise CheckpointError(f"DST {dst} exists; choose another name, or add --force for a file.")


def save(path: Path, content: dict) -> None:
    """Write a checkpoint beside its place and move it there: it is there whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as f:
        try:
            torch.save(content, f)
            f.flush()
            os.fsync(f.fileno())
            os.chmod(f.name, 0o666 & ~current_umask())
            os.replace(f.name, path)
        except BaseException:
            os.unlink(f.name)
            raise


def current_umask() -> int:
    """The process's umask; temporary files ignore it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sha256(path: Path) -> str:
    """Hash of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def summary_table(converted: Converted) -> str:
    """Entries and numbers for each module: official name, ours."""
    modules = defaultdict(lambda: [0, 0])
    for official, ours in converted.names.items():
        key = module_of(official), module_of(ours) if ours else "(not used)"
        modules[key][0] += 1
        modules[key][1] += converted.model[ours].numel() if ours else 0
    rows = [(*names, str(n), f"{size:,}") for names, (n, size) in modules.items()]
    total = sum(tensor.numel() for tensor in converted.model.values())
    rows.append(("total", "", str(len(converted.names)), f"{total:,}"))
    return format_table(("official", "here", "entries", "numbers"), rows)


def names_table(converted: Converted) -> str:
    """Both names of every parameter, and our shape."""
    rows = [
        (official, ours or "(not used)", str(tuple(converted.model[ours].shape)) if ours else "")
        for official, ours in converted.names.items()
    ]
    return format_table(("official", "here", "shape here"), rows)


def module_of(name: str) -> str:
    """The name down to a stage of the LVT; elsewhere its first two parts."""
    stage = re.match(r"(.*\.)?stages\.\d|(backbone\.)+\d", name)
    return stage[0] if stage else ".".join(name.split(".")[:-1][:2]) or name


def format_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Left-aligned columns of text."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [header, tuple("-" * width for width in widths), *rows]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in lines)


if __name__ == "__main__":
    sys.exit(main())
