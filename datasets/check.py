"""Says what is missing or broken in a data set, file by file; exit status 1 if anything is.

    python datasets/check.py coco ade20k           # files exist, open, and have the right sizes
    python datasets/check.py shapes --full         # decodes everything, compares PNGs with JSON
    python datasets/check.py ade20k --full         # decodes everything, looks for unknown labels
    python datasets/check.py my/panoptic.json --images my/images --panoptic my/panoptic

A PATH is a folder with one of the layouts of datasets/README.md (ADEChallengeData2016, too), or a
panoptic JSON.
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout needs no installation

from lvt_d2.data.ade20k_meta import ADE20K_CLASSES  # noqa: E402
from lvt_d2.data.build import default_num_workers  # noqa: E402
from lvt_d2.data.builtin import (  # noqa: E402
    ADE20K_FOLDER,
    ade20k_paths,
    coco_paths,
    coco_sample_paths,
    coco_test_paths,
    datasets_root,
    known_category_ids,
    shapes_paths,
)
from lvt_d2.data.check import PanopticSource, check_source  # noqa: E402
from lvt_d2.data.check_semantic import SemanticSource, check_semantic_source  # noqa: E402

Source = PanopticSource | SemanticSource
SETS = ("coco", "ade20k", "shapes", "coco_sample")
COCO_IDS = known_category_ids("coco_sample_panoptic")
SHAPES_IDS = known_category_ids("shapes_train_panoptic")


def builtin_sources(name: str, root: str) -> list[Source]:
    """The splits of a built-in set under ``root``."""
    if name == "ade20k":
        return [ade20k_source(root, split) for split in ("train", "val", "test")]
    if name == "coco_sample":
        return [PanopticSource(name, **coco_sample_paths(root), category_ids=COCO_IDS)]
    paths, ids = (coco_paths, COCO_IDS) if name == "coco" else (shapes_paths, SHAPES_IDS)
    sources = [
        PanopticSource(f"{name} {split}", **paths(root, split), category_ids=ids)
        for split in ("train", "val")
    ]
    if name == "coco":
        test = coco_test_paths(root)
        # Only needed to write predictions for the test server.
        sources.append(
            PanopticSource(
                "coco test-dev", test["image_info_json"], test["image_root"], None, optional=True
            )
        )
    return sources


def ade20k_source(root: str, split: str) -> SemanticSource:
    """One split of ADE20K; the one of the test server need not be there."""
    return SemanticSource(
        f"ade20k {split}",
        **ade20k_paths(root, split),
        num_classes=len(ADE20K_CLASSES),
        reduce_zero_label=True,
        optional=split == "test",
    )


def sources_of_path(path: Path, images: str | None, panoptic: str | None) -> list[Source]:
    """The sets at a path that the user gave; ids are those of each JSON's own categories.

    Raises:
        ValueError: nothing there looks like a set.
    """
    if path.is_dir() and (path / "panoptic.json").is_file():
        path = path / "panoptic.json"
    if path.is_file():
        images = images or str(path.parent / "images")
        panoptic = panoptic or str(path.parent / path.stem)
        return [PanopticSource(str(path), str(path), images, panoptic)]
    if path.name == ADE20K_FOLDER:
        return [ade20k_source(str(path.parent), split) for split in ("train", "val")]
    found = sorted((path / "annotations").glob("panoptic_*.json"))
    if not found:
        raise ValueError(
            f"{path} is none of {', '.join(SETS)}, no panoptic JSON, and no folder with "
            f"panoptic.json or annotations/panoptic_*.json or of the name {ADE20K_FOLDER}"
        )
    sources = []
    for json_path in found:
        pngs = [json_path.with_suffix(""), path / json_path.stem]
        sources.append(
            PanopticSource(
                str(json_path),
                str(json_path),
                images or str(path / json_path.stem.removeprefix("panoptic_")),
                panoptic or str(next((p for p in pngs if p.is_dir()), pngs[0])),
            )
        )
    return sources


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0 all is well, 1 problems, 2 wrong use."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="+", metavar="SET", help=f"{', '.join(SETS)}, or a PATH")
    parser.add_argument("--images", metavar="DIR", help="folder of the images, for a PATH")
    parser.add_argument("--panoptic", metavar="DIR", help="folder of the PNGs, for a PATH")
    parser.add_argument(
        "--full", action="store_true", help="decode every file, look at every label"
    )
    parser.add_argument(
        "--workers", type=int, default=default_num_workers(), help="processes (%(default)s)"
    )
    parser.add_argument(
        "--show", type=int, default=50, metavar="N", help="problems to list per set (%(default)s)"
    )
    args = parser.parse_args(argv)
    sources = []
    for name in args.sets:
        if name in SETS:
            sources += builtin_sources(name, datasets_root())
            continue
        try:
            sources += sources_of_path(Path(name), args.images, args.panoptic)
        except ValueError as error:
            parser.error(str(error))
    results = [report_source(source, args) for source in sources]
    bad = results.count(False)
    print(f"{bad} of {len(results)} sets have problems" if bad else "All is well")
    if bad:
        print("datasets/README.md shows the tree and how to fill it")
    return 1 if bad else 0


def report_source(source: Source, args: argparse.Namespace) -> bool:
    """Check one set and print what was found; whether all is well."""

    def progress(results, total):
        return tqdm(results, source.name, total, leave=False, unit="image")

    check = check_semantic_source if isinstance(source, SemanticSource) else check_source
    report = check(source, args.full, args.workers, progress)
    if report.absent:
        print(f"[absent] {source.name}: not there, and not needed for training or validation")
        return True
    depth = "decoded" if args.full else "looked at"
    verdict = "bad" if report.problems else "ok"
    print(
        f"[{verdict}] {source.name}: {report.images} images {depth}, "
        f"{len(report.problems)} problems"
    )
    for problem in report.problems[: args.show]:
        print(f"  {problem}")
    if len(report.problems) > args.show:
        print(f"  ... and {len(report.problems) - args.show} more (--show N lists them)")
    return not report.problems


if __name__ == "__main__":
    sys.exit(main())
