#!/usr/bin/env python
"""Predicts images with a trained model: pictures, label maps and a JSON file.

    tools/predict.py --config-file configs/panoptic_lvt.py --checkpoint MODEL.pth \
        --input IMAGE_OR_FOLDER ... --output DIR [--opts key=value ...]

In DIR there are then NAME.png, the image with its prediction drawn over it; panoptic/NAME.png, ids
of segments as R + 256 G + 65536 B, or semantic/NAME.png, labels as gray values; and
predictions.json, a list of what was found in each image.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is not installed

import lvt_d2  # noqa: F401, I001  decides which engine answers to the imports below
import numpy as np
import torch
from detectron2.data import Metadata, detection_utils
from detectron2.utils.logger import setup_logger
from lvt_d2.data import ids_to_rgb
from lvt_d2.engine import Predictor, check_output_dir, load_config
from lvt_d2.engine.launch import report
from lvt_d2.errors import DatasetError, LVTError
from PIL import Image

logger = logging.getLogger("lvt_d2.predict")

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def find_images(inputs: Sequence[str]) -> list[Path]:
    """Files as given, and the images of folders.

    Raises:
        DatasetError: one does not exist, has no images, or two would get the same name.
    """
    found: list[Path] = []
    for path in map(Path, inputs):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in _SUFFIXES)
            if not inside:
                raise DatasetError(f"the folder {path} has no images ({', '.join(_SUFFIXES)})")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise DatasetError(f"--input {path} does not exist; give images or folders of them")
    by_stem: dict[str, Path] = {}
    for path in found:
        other = by_stem.setdefault(path.stem, path)
        if other is not path:
            raise DatasetError(
                f"{other} and {path} would both be written as {path.stem}.png; predict them apart"
            )
    return found


def describe(output: dict, metadata: Metadata, threshold: float) -> dict:
    """What an output holds, in plain numbers and names of classes."""
    things, stuff = metadata.get("thing_classes", ()), metadata.get("stuff_classes", ())
    found: dict = {}
    if "panoptic_seg" in output:
        ids, segments = output["panoptic_seg"]
        areas = dict(zip(*(v.tolist() for v in ids.unique(return_counts=True)), strict=True))
        found["segments"] = [
            {
                **{key: segment[key] for key in ("id", "isthing", "category_id")},
                "category": _name(things if segment["isthing"] else stuff, segment["category_id"]),
                "area": areas.get(segment["id"], 0),
            }
            for segment in segments
        ]
    elif "sem_seg" in output:
        labels, counts = _labels(output["sem_seg"]).unique(return_counts=True)
        found["labels"] = [
            {"category_id": label, "category": _name(stuff, label), "area": count}
            for label, count in zip(labels.tolist(), counts.tolist(), strict=True)
        ]
    if "instances" in output:
        instances = output["instances"]
        found["instances"] = [
            {"category_id": c, "category": _name(things, c), "score": score, "box": box}
            for c, score, box in zip(
                instances.pred_classes.tolist(),
                instances.scores.tolist(),
                instances.pred_boxes.tensor.tolist(),
                strict=True,
            )
            if score >= threshold
        ]
    return found


def _labels(sem_seg: torch.Tensor) -> torch.Tensor:
    """Labels (H, W) of labels or of scores (K, H, W): models may give either."""
    return sem_seg if sem_seg.dim() == 2 else sem_seg.argmax(dim=0)


def _name(classes: Sequence[str], index: int) -> str:
    return classes[index] if index < len(classes) else str(index)


def write_pictures(
    path: Path, output: dict, metadata: Metadata, threshold: float, folder: Path
) -> None:
    """The prediction over the image, and its map of segments or labels."""
    from detectron2.utils.visualizer import Visualizer  # which needs OpenCV in Detectron2

    visualizer = Visualizer(detection_utils.read_image(str(path), format="RGB"), metadata)
    name = f"{path.stem}.png"
    if "panoptic_seg" in output:
        ids, segments = output["panoptic_seg"][0].cpu(), output["panoptic_seg"][1]
        drawn = visualizer.draw_panoptic_seg(ids, segments)
        _save(ids_to_rgb(ids.numpy()), folder / "panoptic" / name)
    elif "sem_seg" in output:
        labels = _labels(output["sem_seg"]).cpu()
        drawn = visualizer.draw_sem_seg(labels)
        wide = int(labels.max()) > 255
        _save(labels.numpy().astype(np.uint16 if wide else np.uint8), folder / "semantic" / name)
    else:
        instances = output["instances"].to("cpu")
        drawn = visualizer.draw_instance_predictions(instances[instances.scores >= threshold])
    _save(drawn.get_image(), folder / name)


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="F")
    parser.add_argument("--checkpoint", default="", help="weights (train.init_checkpoint)")
    parser.add_argument("--input", required=True, nargs="+", help="images, or folders of them")
    parser.add_argument("--output", type=Path, default=Path("output/predict"), metavar="DIR")
    parser.add_argument("--batch-size", type=int, default=8, help="images at a time (%(default)s)")
    parser.add_argument("--threshold", type=float, default=0.5, help="least score of an instance")
    parser.add_argument("--device", help="cuda or cpu (cuda if there is one)")
    parser.add_argument("--opts", nargs="*", default=[], metavar="key=value", help="overrides")
    args = parser.parse_args(argv)
    setup_logger(name="lvt_d2")
    try:
        check_output_dir(str(args.output))
        paths = find_images(args.input)
        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        predictor = Predictor.from_config(
            load_config(args.config_file, args.opts),
            args.checkpoint,
            device=device,
            batch_size=args.batch_size,
        )
        found = []
        for path, output in zip(paths, predictor.predict(paths), strict=True):
            write_pictures(path, output, predictor.metadata, args.threshold, args.output)
            described = describe(output, predictor.metadata, args.threshold)
            found.append({"file_name": os.fspath(path), **described})
            print(f"{args.output / path.stem}.png")
        (args.output / "predictions.json").write_text(json.dumps(found, indent=1) + "\n")
    except LVTError as error:
        return report(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
