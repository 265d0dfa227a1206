#!/usr/bin/env python
"""Times box and mask AP of the instance evaluator against Detectron2's evaluator on pycocotools.

    python tools/benchmark_ap.py --images 200 --rounds 3 --json ap.json

Both run inside `inference_on_dataset` on the same synthetic predictions, take turns, and must give
the same numbers. Ours reads the objects off panoptic PNGs, which it has to decode; Detectron2's has
them in memory, from a COCO file of instances.
"""

import argparse
import contextlib
import io
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout needs no installation

import lvt_d2  # noqa: E402, F401  (decides which engine answers to `detectron2`)

# isort: split
import numpy as np  # noqa: E402
import pycocotools.mask as mask_util  # noqa: E402
import torch  # noqa: E402
from detectron2.data import DatasetCatalog, MetadataCatalog  # noqa: E402
from detectron2.data.datasets import register_coco_instances  # noqa: E402
from detectron2.evaluation import COCOEvaluator, inference_on_dataset  # noqa: E402
from detectron2.structures import Boxes, Instances  # noqa: E402
from PIL import Image  # noqa: E402
from tabulate import tabulate  # noqa: E402

from lvt_d2.data import ids_to_rgb, register_panoptic_dataset  # noqa: E402
from lvt_d2.evaluation import InstanceEvaluator  # noqa: E402

PANOPTIC, INSTANCES = "benchmark_ap_panoptic", "benchmark_ap_instances"
OURS, OTHER = "lvt_d2's InstanceEvaluator", "COCOEvaluator, pycocotools"
NUM_CLASSES = 80
CATEGORIES = [
    {"id": i, "name": str(i), "isthing": int(i <= NUM_CLASSES), "color": [i, i, i]}
    for i in range(1, NUM_CLASSES + 2)
]


def ellipse(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A mask (H, W) of 10 to 200 pixels a side."""
    y, x = np.ogrid[: size[0], : size[1]]
    center, radii = rng.uniform(0, size), rng.uniform(5, 100, 2)
    return ((y - center[0]) / radii[0]) ** 2 + ((x - center[1]) / radii[1]) ** 2 < 1


def describe(mask: np.ndarray) -> dict:
    """Area, box and run lengths of a mask, as COCO's files have them."""
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    box = mask_util.toBbox(rle).tolist()
    rle["counts"] = rle["counts"].decode("ascii")
    return {"area": int(mask.sum()), "bbox": box, "segmentation": rle}


def detections(
    rng: np.random.Generator, masks: list[np.ndarray], classes: list[int], count: int
) -> Instances:
    """The objects moved by some pixels, many with wrong classes, and inventions up to ``count``."""
    size = masks[0].shape
    found, labels = [], []
    for mask, label in zip(masks, classes, strict=True):
        found.append(np.roll(mask, tuple(rng.integers(-5, 6, 2)), axis=(0, 1)))
        labels.append(label if rng.random() < 0.8 else int(rng.integers(NUM_CLASSES)))
    while len(found) < count:
        found.append(ellipse(rng, size))
        labels.append(int(rng.integers(NUM_CLASSES)))
    boxes = [mask_util.toBbox(mask_util.encode(np.asfortranarray(m, np.uint8))) for m in found]
    boxes = torch.from_numpy(np.stack(boxes)).float()
    boxes[:, 2:] += boxes[:, :2]
    return Instances(
        size,
        pred_boxes=Boxes(boxes),
        scores=torch.from_numpy(rng.random(len(found))).float(),
        pred_classes=torch.tensor(labels),
        pred_masks=torch.from_numpy(np.stack(found)),
    )


def make_set(folder: Path, args: argparse.Namespace) -> dict[int, Instances]:
    """Write and register the objects in both forms; detections by image id."""
    rng = np.random.default_rng(args.seed)
    size = (args.size[1], args.size[0])
    images, panoptic, objects, found = [], [], [], {}
    for image_id in range(1, args.images + 1):
        ids = np.full(size, 1, np.int32)
        for number in range(2, 2 + rng.integers(4, 16)):
            ids[ellipse(rng, size)] = number
        name = f"{image_id:06d}"
        Image.fromarray(ids_to_rgb(ids)).save(folder / f"{name}.png")
        (folder / f"{name}.jpg").touch()  # nobody looks at it
        images.append(
            {"id": image_id, "file_name": f"{name}.jpg", "height": size[0], "width": size[1]}
        )
        segments, masks, classes = [], [], []
        for number in np.unique(ids).tolist():
            mask, crowd = ids == number, int(number == 9)
            category = NUM_CLASSES + 1 if number == 1 else int(rng.integers(1, NUM_CLASSES + 1))
            entry = describe(mask) | {"category_id": category, "iscrowd": crowd}
            segments.append({k: entry[k] for k in ("area", "bbox", "category_id", "iscrowd")})
            segments[-1]["id"] = number
            if number > 1:
                objects.append({"id": len(objects) + 1, "image_id": image_id, **entry})
                masks.append(mask)
                classes.append(category - 1)
        panoptic.append(
            {"image_id": image_id, "file_name": f"{name}.png", "segments_info": segments}
        )
        found[image_id] = detections(rng, masks, classes, args.detections)
    content = {"images": images, "annotations": panoptic, "categories": CATEGORIES}
    (folder / "panoptic.json").write_text(json.dumps(content))
    content = {"images": images, "annotations": objects, "categories": CATEGORIES[:NUM_CLASSES]}
    (folder / "instances.json").write_text(json.dumps(content))
    for name in {PANOPTIC, INSTANCES} & set(DatasetCatalog.list()):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_panoptic_dataset(PANOPTIC, str(folder / "panoptic.json"), str(folder), str(folder))
    register_coco_instances(INSTANCES, {}, str(folder / "instances.json"), str(folder))
    return found


def measure(found: dict[int, Instances], rounds: int) -> tuple[dict[str, list[float]], dict]:
    """Seconds of every round, and results, by evaluator."""
    records = DatasetCatalog.get(PANOPTIC)
    DatasetCatalog.get(INSTANCES)  # reads the names of the classes
    loader = [[record] for record in records]

    def model(inputs: list[dict]) -> list[dict]:
        return [{"instances": found[record["image_id"]]} for record in inputs]

    with contextlib.redirect_stdout(io.StringIO()):
        other = COCOEvaluator(INSTANCES, ("bbox", "segm"), False, use_fast_impl=False)
        evaluators = {OURS: InstanceEvaluator(PANOPTIC, distributed=False), OTHER: other}
        spent, results = {name: [] for name in evaluators}, {}
        for turn in range(rounds):
            for name in sorted(evaluators, reverse=bool(turn % 2)):
                start = time.perf_counter()
                results[name] = inference_on_dataset(model, loader, evaluators[name])
                spent[name].append(time.perf_counter() - start)
    return spent, results


def largest_difference(results: dict[str, dict]) -> float:
    """Of any AP in percent; NaN on one side only is infinite."""
    worst = 0.0
    for task, values in results[OURS].items():
        pairs = [(values[name], results[OTHER][task][name]) for name in values]
        if any(np.isnan(a) != np.isnan(b) for a, b in pairs):
            return float("inf")
        worst = max([worst, *(abs(a - b) for a, b in pairs if not np.isnan(a))])
    return worst


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit status, 1 where the numbers differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=200, help="(%(default)s)")
    parser.add_argument("--detections", type=int, default=40, help="per image (%(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("W", "H"))
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        spent, results = measure(make_set(Path(folder), args), args.rounds)
    ratios = [other / ours for ours, other in zip(spent[OURS], spent[OTHER], strict=True)]
    rows = [
        {
            "evaluator": name,
            "ms_per_image": 1e3 * statistics.median(spent[name]) / args.images,
            "times_ours": statistics.median(ratios) if name == OTHER else 1.0,
            "box_ap": results[name]["bbox"]["AP"],
            "mask_ap": results[name]["segm"]["AP"],
        }
        for name in spent
    ]
    print(
        f"{args.images} images of {args.size[0]}x{args.size[1]}, {args.detections} detections in "
        f"each; medians of {args.rounds} rounds"
    )
    headers = ["", "ms per image", "times ours", "box AP", "mask AP"]
    floats = ("", ".1f", ".2f", ".6f", ".6f")
    print(tabulate([list(r.values()) for r in rows], headers, floatfmt=floats, tablefmt="pipe"))
    if args.json is not None:
        setting = {"images": args.images, "detections": args.detections, "rounds": args.rounds}
        setting |= {"machine": platform.processor() or platform.machine()}
        args.json.write_text(json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n")
    worst = largest_difference(results)
    print(f"largest difference of any AP, in percent points: {worst:.1e}")
    return int(worst > 1e-9)


if __name__ == "__main__":
    sys.exit(main())
