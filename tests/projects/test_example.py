"""The example of projects/README.md: its parts, and a training through the tool."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L, LazyConfig, get_cfg, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.utils.events import EventStorage
from PIL import Image

from lvt_d2.checkpoint import LVTCheckpointer
from lvt_d2.engine.training import build_hooks
from lvt_d2.errors import ConfigError
from projects.example.head import OneLevelHead
from projects.example.hook import GradientNorm
from projects.example.mapper import GreyMapper

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "projects/example/config.py"
TEXT = (ROOT / "projects/README.md").read_text()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    command = [ROOT / "datasets/make_shapes.py", "--output", root, "--train", "6", "--val", "2"]
    subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True)
    return root


def train(datasets: Path, output: Path, *arguments: str, config=CONFIG, path="") -> None:
    command = [sys.executable, str(ROOT / "tools/lazyconfig_train_net.py"), "--config-file"]
    command += [str(config), "--num-gpus", "0", *arguments]
    command += ["dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0"]
    command += ["train.log_period=1", f"train.output_dir={output}"]
    variables = {"DETECTRON2_DATASETS": str(datasets), "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def metrics(output: Path) -> list[dict]:
    rows = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return [row for row in rows if "total_loss" in row]


def test_through_the_tool_and_resumed(shapes, tmp_path):
    train(shapes, tmp_path, "train.max_iter=3", "train.checkpointer.period=2")
    results = json.loads((tmp_path / "results.json").read_text())
    assert len([key for key in results["sem_seg"] if key.startswith("IoU-")]) == 9
    rows = metrics(tmp_path)
    assert len(rows) == 3 and all(row["grad_norm"] > 0 for row in rows)
    largest = max(row["grad_norm"] for row in rows)
    assert rows[-1]["largest_grad_norm"] == pytest.approx(largest)
    state = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert state["trainer"]["hooks"]["GradientNorm"]["largest"] == pytest.approx(largest)
    assert state["model"]["sem_seg_head.predictor.weight"].shape[0] == 9
    train(shapes, tmp_path, "--resume", "train.max_iter=4", "train.hooks.0.most=1e-9")
    assert metrics(tmp_path)[-1]["largest_grad_norm"] >= 0.999 * largest, "kept over a restart"


def test_elsewhere(shapes, tmp_path):
    """As the page says: own package, common configs by path, and from the saved config."""
    mine = tmp_path / "work/mine"
    mine.mkdir(parents=True)
    for name in ("head", "mapper", "hook"):
        (mine / f"{name}.py").write_text((CONFIG.parent / f"{name}.py").read_text())
    text = CONFIG.read_text().replace("projects.example", "mine")
    text = text.replace("import LazyCall as L\n", "import LazyCall as L, LazyConfig\n")
    text, count = re.subn(
        r"from \.\.\.configs\.([\w.]+) import (\w+)(?: as (\w+))?\n",
        lambda m: "{} = LazyConfig.load('{}/configs/{}.py').{}\n".format(
            m[3] or m[2], ROOT, m[1].replace(".", "/"), m[2]
        ),
        text,
    )
    assert count == 5
    (mine / "config.py").write_text(text)
    output = tmp_path / "output"
    train(shapes, output, "train.max_iter=1", config=mine / "config.py", path=str(mine.parent))
    saved = (output / "config.yaml").read_text()
    assert "mine.head.OneLevelHead" in saved and "projects" not in saved


def test_config_survives_saving(tmp_path):
    cfg = LazyConfig.load(str(CONFIG))
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    again = LazyConfig.load(str(tmp_path / "config.yaml"))
    assert LazyConfig.to_py(again) == LazyConfig.to_py(cfg)
    assert again.train.hooks[0]._target_ == "projects.example.hook.GradientNorm"
    fresh = LazyConfig.load(str(ROOT / "configs/common/train.py")).train
    assert list(fresh.hooks) == [], "the common config is as it was"


def test_head_learns_from_lazy_configs_and_yaml():
    model = instantiate(LazyConfig.load(str(CONFIG)).model).train()
    batch = [{"image": torch.zeros(3, 64, 96), "sem_seg": torch.randint(0, 9, (64, 96))}]
    model(batch)["loss_sem_seg"].backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        (result,) = model.eval()([{"image": torch.zeros(3, 64, 96), "height": 50, "width": 70}])
    assert result["sem_seg"].shape[-2:] == (50, 70)

    cfg = get_cfg()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 7
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res3"]
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32
    shapes = {"res3": ShapeSpec(channels=16, stride=8), "res4": ShapeSpec(channels=4, stride=16)}
    head = SEM_SEG_HEADS_REGISTRY.get("OneLevelHead")(cfg, shapes).eval()
    logits, losses = head({"res3": torch.rand(2, 16, 4, 6)})
    assert logits.shape == (2, 7, 32, 48) and losses == {}
    with pytest.raises(ValueError, match="expected one feature"):
        OneLevelHead(shapes, num_classes=3)


def test_mapper_makes_its_share_grey(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    Image.fromarray(pixels[..., 0] % 9).save(tmp_path / "label.png")
    record = {"file_name": tmp_path / "image.png", "sem_seg_file_name": tmp_path / "label.png"}
    record = {name: str(path) for name, path in record.items()}

    def greys(is_train, share):
        mapper = GreyMapper(
            is_train=is_train,
            augmentations=[],
            image_format="RGB",
            dataset_name="shapes_train_semantic",
            share=share,
        )
        images = [mapper(record)["image"] for _ in range(40)]
        assert all(image.shape == (3, 48, 64) for image in images)
        return sum(bool((image == image[0]).all()) for image in images)

    assert greys(True, 1.0) == 40 and greys(True, 0.0) == 0 and greys(False, 1.0) == 0
    assert 5 < greys(True, 0.5) < 35


def test_hook_clips_and_remembers():
    model = torch.nn.Linear(2, 1)
    (3 * model(torch.ones(1, 2))).sum().backward()
    hook = GradientNorm(most=0.5)
    hook.load_state_dict({"largest": 1.0})
    with EventStorage() as storage:
        hook.trainer = SimpleNamespace(model=model, storage=storage)
        hook.after_backward()
        assert storage.latest()["grad_norm"][0] == pytest.approx(27**0.5)
    gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert gradients.norm() == pytest.approx(0.5, rel=1e-4)
    assert hook.state_dict() == {"largest": pytest.approx(27**0.5)}


@pytest.mark.parametrize(
    "section, words",
    [
        (L(torch.nn.ReLU)(), "train.hooks.0 is of the type ReLU; expected a LazyCall of a"),
        (L(GradientNorm)(most=1, least=0), r"train.hooks.0 .*'least'.*train.hooks.0.least"),
    ],
)
def test_what_is_no_hook(tmp_path, section, words):
    cfg = LazyConfig.load(str(CONFIG))
    cfg.train.hooks = [section]
    checkpointer = LVTCheckpointer(torch.nn.Linear(1, 1), str(tmp_path))
    with pytest.raises(ConfigError, match=words):
        build_hooks(cfg, checkpointer, None)


def test_page_names_what_exists():
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / "projects" / link).is_file(), link
    for word in re.findall(r"(?:tools|configs|datasets|projects)/[\w/]+\.py", TEXT):
        assert (ROOT / word).is_file(), word
    config = CONFIG.read_text()
    for name in ("OneLevelHead", "GreyMapper", "GradientNorm", "train.hooks = ["):
        assert name in TEXT and name in config
    assert "dataloader.train.mapper._target_ = GreyMapper" in TEXT and config
