"""The configs for small machines reach what the README says of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str, datasets: Path) -> None:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | {"DETECTRON2_DATASETS": str(datasets)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def train(config: str, datasets: Path, output: Path) -> dict:
    tool = "tools/lazyconfig_train_net.py"
    run(tool, "--config-file", config, "--num-gpus", "0", f"train.output_dir={output}",
        datasets=datasets)  # fmt: skip
    return json.loads((output / "results.json").read_text())


@pytest.mark.slow
def test_quickstart(tmp_path):
    run("datasets/make_shapes.py", "--output", str(tmp_path), datasets=tmp_path)
    config = "configs/quick/shapes_panoptic_lvt.py"
    result = train(config, tmp_path, tmp_path / "output")["panoptic_seg"]
    assert result["PQ"] >= 70 and result["PQ_th"] >= 60
    pictures = list((tmp_path / "output/inference/pictures").glob("*.png"))
    assert len(pictures) == 12
    annotations = json.loads((tmp_path / "output/inference/predictions.json").read_text())
    assert len(annotations["annotations"]) >= 50


@pytest.mark.slow
def test_two_coco_images_are_fitted(coco_sample, tmp_path):
    config = "configs/quick/coco_sample_panoptic_lvt.py"
    result = train(config, coco_sample.parent, tmp_path / "output")["panoptic_seg"]
    assert result["PQ"] >= 85 and result["PQ_th"] >= 80


@pytest.mark.slow
def test_semantic_quick_config(tmp_path):
    run("datasets/make_shapes.py", "--output", str(tmp_path), datasets=tmp_path)
    config = "configs/quick/shapes_segformer_lvt.py"
    result = train(config, tmp_path, tmp_path / "output")["sem_seg"]
    assert result["mIoU"] >= 85
