"""An official checkpoint, evaluated by the tool on COCO's own layout, gives the official maps."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lvt_d2.data.panoptic_png import read_panoptic_ids

ROOT = Path(__file__).resolve().parents[2]
VOID = 133


@pytest.fixture
def coco_tree(coco_sample, tmp_path):
    """The two sample images as if they were val2017."""
    coco = tmp_path / "datasets/coco"
    shutil.copytree(coco_sample / "images", coco / "val2017")
    shutil.copytree(coco_sample / "panoptic", coco / "annotations/panoptic_val2017")
    shutil.copy(coco_sample / "panoptic.json", coco / "annotations/panoptic_val2017.json")
    return coco.parent


@pytest.fixture
def official_file(goldens, synth, tmp_path):
    folder = goldens / "official"
    keys = json.loads((folder / "keys_pan.json").read_text())
    arrays = synth.state_dict(keys, stored=np.load(folder / "stored_pan.npz"))
    state = {name: torch.from_numpy(value) for name, value in arrays.items()}
    path = tmp_path / "panoptic_fpn_lvt_fpn_coco.pth"
    torch.save({"meta": {"epoch": 36}, "state_dict": state}, path)
    return path


def official_classes(goldens, image_id: int) -> tuple[np.ndarray, list[int]]:
    """Recorded map (category id and instance number per pixel) of one image, void as 0."""
    folder = goldens / "official"
    with np.load(folder / "pan.npz") as file:
        recorded = file[f"pan_{image_id}"].astype(np.int64)
    to_class = json.loads((folder / "panextra.json").read_text())["cat2label"]
    to_category = {v: int(k) for k, v in to_class.items()} | {VOID: 0}
    category = np.vectorize(to_category.get)(recorded % 1000)
    return category + 1000 * (recorded // 1000)


@pytest.mark.slow
def test_eval_only_gives_the_official_maps(coco_tree, official_file, goldens, tmp_path):
    output = tmp_path / "output"
    done = subprocess.run(
        [
            sys.executable, str(ROOT / "tools/lazyconfig_train_net.py"),
            "--config-file", str(ROOT / "configs/panoptic_lvt.py"),
            "--eval-only", "--num-gpus", "0",
            f"train.init_checkpoint={official_file}", f"train.output_dir={output}",
            "dataloader.test.num_workers=0",
        ],
        env=os.environ | {"DETECTRON2_DATASETS": str(coco_tree)},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    predictions = json.loads((output / "inference/predictions.json").read_text())
    assert len(predictions["annotations"]) == 2
    for annotation in predictions["annotations"]:
        ids = read_panoptic_ids(output / "inference/panoptic" / annotation["file_name"])
        expected = official_classes(goldens, annotation["image_id"])
        # Our segments in the order of their ids are the official instances, best score first.
        found = np.zeros_like(expected)
        instance = 0
        for segment in sorted(annotation["segments_info"], key=lambda s: s["id"]):
            instance += bool(segment.get("isthing", segment["category_id"] <= 90))
            number = instance if segment["category_id"] <= 90 else 0
            found[ids == segment["id"]] = segment["category_id"] + 1000 * number
        assert (found == expected).mean() >= 0.9998
    assert "Panoptic Evaluation Results" in done.stdout
