"""Probe of the data sets under ``DETECTRON2_DATASETS``."""

import os

from lvt_d2.doctor.advice import one_line
from lvt_d2.doctor.rows import Row

VARIABLE = "DETECTRON2_DATASETS"


def data_sets() -> list[Row]:
    """What there is of the sets that the configs name; files are not opened."""
    asked = os.environ.get(VARIABLE)
    root = os.path.abspath(os.path.expanduser(asked if asked is not None else "datasets"))
    title = "Data"
    there = "" if os.path.isdir(root) else ", which does not exist"
    how = f"{VARIABLE} is {asked!r}" if asked is not None else f"{VARIABLE} is not set"
    rows = [Row(title, "folder", f"{root}{there} ({how})")]
    try:
        parts_of_sets = _parts(root)
    except BaseException as error:
        text = f"not looked at, since lvt_d2.data can't be imported ({one_line(error)})"
        return [*rows, Row(title, "sets", text)]
    for name, parts in parts_of_sets.items():
        rows.append(Row(title, name, _state(parts, root)))
    return rows


def _parts(root: str) -> dict[str, list[str]]:
    """Files and folders of every set."""
    from lvt_d2.data import builtin

    coco, ade = [], []
    for split in ("train", "val"):
        coco += builtin.coco_paths(root, split).values()
        ade += builtin.ade20k_paths(root, split).values()
    instances = [
        path
        for split in ("train", "val")
        for path in (
            os.path.join(root, f"coco/annotations/instances_{split}2017.json"),
            os.path.join(root, f"coco/{split}2017"),
        )
    ]
    shapes = [p for s in ("train", "val") for p in builtin.shapes_paths(root, s).values()]
    return {
        "COCO panoptic": coco,
        "COCO instances": instances,
        "COCO test-dev": list(builtin.coco_test_paths(root).values()),
        "ADE20K": ade,
        "shapes": shapes,
        "coco_sample": list(builtin.coco_sample_paths(root).values()),
    }


def _state(parts: list[str], root: str) -> str:
    missing = [path for path in parts if not os.path.exists(path)]
    if len(missing) == len(parts):
        return "not there"
    if missing:
        return f"lacks {', '.join(os.path.relpath(path, root) for path in missing)}"
    counts = [
        f"{sum(1 for _ in os.scandir(path))} in {os.path.basename(path)}"
        for path in parts
        if os.path.isdir(path)
    ]
    return f"there: {', '.join(counts)}"
