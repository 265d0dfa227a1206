"""An official SegFormer checkpoint, evaluated by the tool on a small tree in ADE20K's layout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import SemanticSegmentor
from PIL import Image

from lvt_d2.checkpoint import LVTCheckpointer
from tests.synthetic_ade20k import write_ade20k

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/segformer_lvt.py"


@pytest.fixture
def ade_tree(tmp_path):
    return write_ade20k(tmp_path / "datasets", n_train=1, n_val=3)


@pytest.fixture
def official_file(goldens, synth, tmp_path):
    keys = json.loads((goldens / "official/keys_seg.json").read_text())
    arrays = synth.state_dict(keys)
    state = {name: torch.as_tensor(value) for name, value in arrays.items()}
    path = tmp_path / "segformer_lvt_ade20k.pth"
    torch.save({"meta": {"iter": 160000}, "state_dict": state, "optimizer": {}}, path)
    return path


def expected_labels(model, mapper, file_name: Path) -> np.ndarray:
    """Best class of every pixel by Detectron2's own way to full-size scores."""
    sample = mapper({"file_name": str(file_name), "image_id": file_name.stem})
    with torch.no_grad():
        (output,) = SemanticSegmentor.forward(model, [sample])
    return output["sem_seg"].softmax(0).argmax(0).numpy()


def slow_iou(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[int, float]:
    """IoU in percent of every class that occurs in the labels of (predicted, true) maps."""
    predicted, true = (
        np.concatenate([m.ravel() for m in maps]) for maps in zip(*pairs, strict=True)
    )
    predicted, true = predicted[true != 255], true[true != 255]
    result = {}
    for label in np.unique(true):
        both = ((predicted == label) & (true == label)).sum()
        result[label] = 100 * both / ((predicted == label) | (true == label)).sum()
    return result


@pytest.mark.slow
def test_eval_only_gives_the_official_maps(ade_tree, official_file, tmp_path):
    output = tmp_path / "output"
    done = subprocess.run(
        [
            sys.executable, str(ROOT / "tools/lazyconfig_train_net.py"),
            "--config-file", str(CONFIG), "--eval-only", "--num-gpus", "0",
            f"train.init_checkpoint={official_file}", f"train.output_dir={output}",
            "dataloader.test.num_workers=0", "+dataloader.evaluator.0.save_predictions=True",
        ],
        env=os.environ | {"DETECTRON2_DATASETS": str(ade_tree.parent)},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    cfg = LazyConfig.load(str(CONFIG))
    model = instantiate(cfg.model).eval()
    LVTCheckpointer(model).load(str(official_file))
    mapper = instantiate(cfg.dataloader.test.mapper)
    pairs = []
    for image in sorted((ade_tree / "images/validation").iterdir()):
        labels = np.array(Image.open(output / f"inference/sem_seg/{image.stem}.png"))
        expected = expected_labels(model, mapper, image)
        assert labels.shape == expected.shape and (labels == expected).mean() >= 0.9998
        raw = np.array(Image.open(ade_tree / f"annotations/validation/{image.stem}.png"))
        pairs.append((labels, np.where(raw == 0, 255, raw.astype(int) - 1)))
    assert len(pairs) == 3
    results = json.loads((output / "results.json").read_text())["sem_seg"]
    assert results["mIoU"] == pytest.approx(np.mean(list(slow_iou(pairs).values())), abs=1e-9)
