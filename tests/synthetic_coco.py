"""A small tree of COCO's instance annotations: polygons, a crowd, images without objects."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image, ImageDraw

THINGS = [c for c in COCO_CATEGORIES if c["isthing"]]


def write_coco_instances(
    root: str | Path,
    n_train: int,
    n_val: int,
    sizes: Sequence[tuple[int, int]] = ((96, 128), (128, 96)),
    seed: int = 0,
) -> Path:
    """Write ``coco`` with images and ``instances_{train,val}2017.json``, and return its path.

    An image has two to four polygons in their categories' colours. The last one of a split has
    none; the first one also has a crowd.

    Args:
        root: becomes ``DETECTRON2_DATASETS``.
        n_train: training images, 2 or more.
        n_val: validation images, 2 or more.
        sizes: (height, width) in pixels; the images take them in turns.
        seed: of everything.
    """
    tree = Path(root) / "coco"
    (tree / "annotations").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for split, count in (("train2017", n_train), ("val2017", n_val)):
        (tree / split).mkdir()
        images, annotations = [], []
        for number in range(count):
            height, width = sizes[number % len(sizes)]
            image = {"id": 1 + number, "file_name": f"{number:012d}.jpg"}
            images.append(image | {"height": height, "width": width})
            picture = Image.new("RGB", (width, height), (90, 90, 90))
            if number < count - 1:
                found = _draw_things(picture, rng, crowd=number == 0)
                annotations += [thing | {"image_id": image["id"]} for thing in found]
            picture.save(tree / split / image["file_name"])
        numbered = [{"id": i, **a} for i, a in enumerate(annotations, start=1)]
        categories = [{"id": c["id"], "name": c["name"]} for c in THINGS]
        (tree / f"annotations/instances_{split}.json").write_text(
            json.dumps({"images": images, "annotations": numbered, "categories": categories})
        )
    return tree


def _draw_things(picture: Image.Image, rng: np.random.Generator, crowd: bool) -> list[dict]:
    """Paint polygons into a picture; the entries of the JSON for them."""
    draw = ImageDraw.Draw(picture)
    size = np.array(picture.size)
    things = []
    for _ in range(rng.integers(2, 5)):
        category = THINGS[rng.integers(len(THINGS))]
        angles = np.sort(rng.uniform(0, 2 * np.pi, 7))
        centre, radius = rng.uniform(0.25, 0.75, 2) * size, rng.uniform(0.12, 0.25) * size.min()
        points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        draw.polygon([tuple(p) for p in points], fill=tuple(category["color"]))
        polygon = [points.round(2).ravel().tolist()]
        things.append(_entry(polygon, polygon, category, picture.size))
    if crowd:
        mask = np.zeros(picture.size[::-1], np.uint8, order="F")
        mask[:20, :30] = 1
        rle = mask_util.encode(mask)
        counts = rle | {"counts": rle["counts"].decode()}
        things.append(_entry(counts, rle, THINGS[0], picture.size) | {"iscrowd": 1})
    return things


def _entry(segmentation, shape, category: dict, size: tuple[int, int]) -> dict:
    rle = (
        mask_util.merge(mask_util.frPyObjects(shape, *size[::-1]))
        if shape is segmentation
        else (shape)
    )
    return {
        "category_id": category["id"],
        "iscrowd": 0,
        "segmentation": segmentation,
        "bbox": mask_util.toBbox(rle).tolist(),
        "area": float(mask_util.area(rle)),
    }
