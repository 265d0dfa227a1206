import importlib.util
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from lvt_d2.data import register_panoptic_dataset, register_semantic_dataset
from lvt_d2.data.ade20k_meta import ADE20K_CLASSES
from tests.synthetic_ade20k import write_ade20k

ROOT = Path(__file__).parents[2]
SEMANTIC = str(ROOT / "configs/segformer_lvt.py")
CONFIG = """
from detectron2.config import LazyCall as L, LazyConfig
from lvt_d2.data import PanopticMapper, build_train_loader, get_panoptic_dicts

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(get_panoptic_dicts)(names="tiny_to_draw", num_things=80, num_stuff=54),
        mapper=L(PanopticMapper)(is_train=True, augmentations=[], image_format="BGR"),
        total_batch_size=2,
        num_workers=2,
    )
)
model = optimizer = lr_multiplier = dict()
train = LazyConfig.load({common_train!r}).train
"""


@pytest.fixture
def visualize_data():
    spec = importlib.util.spec_from_file_location(
        "visualize_data", ROOT / "tools/visualize_data.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def config(tiny):
    register_panoptic_dataset("tiny_to_draw", *tiny.paths())
    path = tiny.root / "config.py"
    common_train = str(ROOT / "configs/common/train.py")
    path.write_text(CONFIG.format(common_train=common_train))
    yield str(path)
    DatasetCatalog.remove("tiny_to_draw")
    MetadataCatalog.remove("tiny_to_draw")


def test_pictures(visualize_data, config, tmp_path, capsys):
    folder = tmp_path / "pictures"
    options = ["--config-file", config, "--num", "3", "--output", str(folder)]
    assert visualize_data.main(options) == 0
    pictures = sorted(folder.iterdir())
    assert len(pictures) == 3
    assert [p.name.startswith(f"00{i}_") for i, p in enumerate(pictures)] == [True] * 3
    assert "2 instances" in capsys.readouterr().out
    picture = np.asarray(Image.open(pictures[0]))
    assert picture.shape == (480, 1440, 3)
    # Void keeps the image; grass and sky are painted over on the right half.
    assert np.abs(picture[30:230, 900:1400].astype(int) - picture[30:230, 180:680]).mean() > 5


def test_semantic_labels(visualize_data, tmp_path, capsys):
    tree = write_ade20k(tmp_path, 2, 1, sizes=[(96, 128)])
    folders = [str(tree / kind / "training") for kind in ("images", "annotations")]
    register_semantic_dataset("ade_to_draw", *folders, ADE20K_CLASSES, reduce_zero_label=True)
    try:
        options = ["dataloader.train.dataset.names=ade_to_draw", "model.sem_seg_head.num_classes=9"]
        options = ["--config-file", SEMANTIC, "--num", "2", "--output", str(tmp_path), *options]
        assert visualize_data.main([*options, "dataloader.train.total_batch_size=2"]) == 0
    finally:
        DatasetCatalog.remove("ade_to_draw")
        MetadataCatalog.remove("ade_to_draw")
    pictures = sorted(tmp_path.glob("*.png"))
    assert [np.asarray(Image.open(p)).shape for p in pictures] == [(512, 1024, 3)] * 2
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    assert all(name in ADE20K_CLASSES for name in printed[0].split(": ")[1].split("; "))


def test_overrides(visualize_data, config, tmp_path):
    folder = tmp_path / "pictures"
    arguments = ["--config-file", config, "--num", "1", "--output", str(folder)]
    assert visualize_data.main([*arguments, "dataloader.train.mapper.image_format=RGB"]) == 0


@pytest.mark.parametrize(
    ("file", "overrides", "message"),
    [
        ("none.py", [], "none.py does not exist"),
        ("images/2.jpg", [], "2.jpg is no config file"),
        ("config.py", ["dataloader.train.batch=3"], "no key 'dataloader.train.batch'"),
        ("config.py", ["dataloader.train.total_batch_size=0"], "total_batch_size is 0"),
        ("config.py", ["dataloader.train.dataset.names=nothing"], "registered as 'nothing'"),
    ],
)
def test_bad_config(visualize_data, config, tiny, capsys, file, overrides, message):
    options = ["--config-file", str(tiny.root / file), "--output", str(tiny.root / "pictures")]
    status = visualize_data.main([*options, *overrides])
    printed = capsys.readouterr().err.strip()
    assert status == (1 if "registered" in message else 2)
    assert message in printed and "\n" not in printed


def test_bad_input(visualize_data, config, tiny, tmp_path, capsys):
    with pytest.raises(SystemExit):
        visualize_data.main(["--config-file", config, "--num", "0"])
    assert "at least 1" in capsys.readouterr().err
    (tiny.pngs / "2.png").unlink()
    (tiny.pngs / "4.png").unlink()
    options = ["--config-file", config, "--output", str(tmp_path / "pictures")]
    assert visualize_data.main(options) == 1
    assert "png does not exist" in capsys.readouterr().err
