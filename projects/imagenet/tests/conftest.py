"""Fixtures of the ImageNet part: its tools as modules, and folders of tiny images."""

import importlib.util
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))


def _tool(name: str):
    spec = importlib.util.spec_from_file_location(f"imagenet_{name}", PROJECT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def train():
    """The training tool."""
    return _tool("train")


@pytest.fixture(scope="session")
def validate():
    """The validation tool."""
    return _tool("validate")


@pytest.fixture(autouse=True)
def imagenet_logger_as_it_was():
    """Tools set up logging; a test leaves nothing of that behind."""
    logger = logging.getLogger("lvt_imagenet")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    for handler in logger.handlers[:]:
        if handler not in before[0]:
            logger.removeHandler(handler)
            handler.close()
    logger.level, logger.propagate = before[1:]


def write_images(folder: Path, classes: dict[str, int], size: int = 40, seed: int = 0) -> Path:
    """Noise around one colour a class: ``folder/CLASS/NN.png``."""
    generator = np.random.default_rng(seed)
    for number, (name, count) in enumerate(classes.items()):
        colour = np.random.default_rng(number).integers(40, 215, 3)
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            noise = generator.integers(-40, 40, (size, size, 3))
            Image.fromarray((colour + noise).astype(np.uint8)).save(folder / name / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="session")
def write():
    """`write_images`."""
    return write_images


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """Three classes, 8 images each to train on and 3 to validate."""
    root = tmp_path_factory.mktemp("images")
    write_images(root / "train", {"bird": 8, "cat": 8, "dog": 8})
    write_images(root / "val", {"bird": 3, "cat": 3, "dog": 3}, seed=1)
    return root


SMALL = (
    "--model-kwargs", "embed_dims=[16,16,32,32]", "depths=[1,1,1,1]", "num_heads=[1,1,2,2]",
    "mlp_ratios=[1,1,1,1]", "class_heads=2",
)  # fmt: skip
QUICK = (
    "--img-size", "32", "--batch-size", "4", "--workers", "0", "--epochs", "2", "--device", "cpu",
    "--warmup-epochs", "0", "--cooldown-epochs", "0", "--lr", "1e-3", "--no-tensorboard",
    *SMALL,
)  # fmt: skip


@pytest.fixture(scope="session")
def quick() -> tuple[str, ...]:
    """Options of a training that takes seconds; later ones win."""
    return QUICK


@pytest.fixture(scope="session")
def run(train, images):
    """Train for a moment with some more options; returns the rows of metrics.csv."""
    from lvt_imagenet.records import read_rows

    def run_with(output, *words, data=images, status=0):
        words = [str(word) for word in words]
        assert train.main([str(data), *QUICK, "--output", str(output), *words]) == status
        return read_rows(output / "metrics.csv")

    return run_with


@pytest.fixture(scope="session")
def trained(train, images, tmp_path_factory) -> Path:
    """Output folder of an epoch of lvt_cls, of the published size."""
    output = tmp_path_factory.mktemp("trained")
    words = ("--output", str(output), "--epochs", "1", "--model-kwargs", "depths=[2,2,2,2]")
    assert train.main([str(images), *QUICK, *words]) == 0
    return output
