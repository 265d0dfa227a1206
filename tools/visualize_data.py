#!/usr/bin/env python
"""Draws what the training loader feeds, after augmentation.

Panoptic sets: instances beside semantic labels. Semantic sets: the image beside its labels.

    python tools/visualize_data.py --config-file configs/panoptic_lvt.py --num 8 --output DIR

Overrides of the config follow: dataloader.train.dataset.names=shapes_train_panoptic
"""

import argparse
import colorsys
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout needs no installation

import lvt_d2  # noqa: E402, F401  (decides which engine answers to `detectron2`)

# isort: split
from detectron2.config import instantiate  # noqa: E402
from detectron2.data import Metadata, MetadataCatalog, detection_utils  # noqa: E402
from detectron2.utils.env import seed_all_rng  # noqa: E402
from detectron2.utils.logger import setup_logger  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from lvt_d2.engine import load_config  # noqa: E402
from lvt_d2.engine.launch import report  # noqa: E402
from lvt_d2.errors import LVTError  # noqa: E402

SHORT_SIDE = 480  # pixels that small images are enlarged to, so that labels can be read


def instance_colors(count: int) -> list[tuple[float, float, float]]:
    """Bright RGB colours in 0..1 with hues far apart: labels are written in them on black."""
    return [colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.6 + 0.2 * (i % 2), 1.0) for i in range(count)]


def bright_semantic_metadata(metadata: Metadata) -> Metadata:
    """The stuff classes with their colours scaled to full brightness, for the same reason."""
    colors = np.asarray(metadata.stuff_colors, float)
    colors *= 255 / np.maximum(colors.max(axis=1, keepdims=True), 1)
    return Metadata(
        stuff_classes=metadata.stuff_classes, stuff_colors=colors.round().astype(int).tolist()
    )


def draw(sample: dict, image_format: str, metadata: Metadata) -> np.ndarray:
    """Picture (H, 2W, 3) of one mapped sample: boxes and masks, if any; semantic labels."""
    from detectron2.utils.visualizer import Visualizer  # Detectron2's needs OpenCV

    image = sample["image"].permute(1, 2, 0).numpy()
    image = detection_utils.convert_image_to_rgb(image, image_format).astype(np.uint8)
    scale = max(1.0, SHORT_SIDE / min(image.shape[:2]))
    left = Visualizer(image, metadata, scale=scale)
    if "instances" in sample:
        instances = sample["instances"]
        left.overlay_instances(
            boxes=instances.gt_boxes,
            masks=instances.gt_masks,
            labels=[metadata.thing_classes[c] for c in instances.gt_classes.tolist()],
            assigned_colors=instance_colors(len(instances)),
        )
    right = Visualizer(image, bright_semantic_metadata(metadata), scale=scale).draw_sem_seg(
        sample["sem_seg"], area_threshold=0, alpha=0.7
    )
    return np.concatenate([left.get_output().get_image(), right.get_image()], axis=1)


def summary(sample: dict, metadata: Metadata) -> str:
    """What a mapped sample holds, in a few words."""
    if "instances" in sample:
        return f"{len(sample['instances'])} instances"
    labels = [i for i in sample["sem_seg"].unique().tolist() if i != metadata.ignore_label]
    return "; ".join(metadata.stuff_classes[i] for i in labels) or "void"


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="F")
    parser.add_argument("--num", type=int, default=8, metavar="N", help="pictures (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("output/visualize_data"), metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, help="of order and augmentation")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")
    args = parser.parse_args(argv)
    if args.num < 1:
        parser.error(f"--num is {args.num}; it must be at least 1")
    setup_logger(name="lvt_d2")
    seed_all_rng(args.seed)
    try:
        train = load_config(args.config_file, args.opts).dataloader.train
        visualize(train, args.num, args.output)
    except LVTError as error:
        return report(error)
    return 0


def visualize(train: DictConfig, num: int, output: Path) -> None:
    """Write ``num`` pictures of a training loader's config into ``output``, named after images."""
    train.num_workers = 0  # so that the seed decides everything
    # A set can be looked at before the model fits it.
    compared = {"num_things", "num_stuff", "num_classes"} & set(train.dataset)
    train.dataset.update(dict.fromkeys(compared))
    names = train.dataset.names
    metadata = MetadataCatalog.get(names if isinstance(names, str) else names[0])
    output.mkdir(parents=True, exist_ok=True)
    drawn = 0
    for batch in instantiate(train):
        for sample in batch:
            picture = draw(sample, train.mapper.image_format, metadata)
            path = output / f"{drawn:03d}_{Path(sample['file_name']).stem}.png"
            Image.fromarray(picture).save(path)
            print(f"{path}: {summary(sample, metadata)}")
            drawn += 1
            if drawn == num:
                return


if __name__ == "__main__":
    sys.exit(main())
