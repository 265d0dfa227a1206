"""Fixtures for all tests. Importing ``lvt_d2`` first decides which engine they run on."""

import logging
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))

import lvt_d2  # noqa: E402, F401

SHARED = ROOT.parent / "shared"


def _reference_folder(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"reference data {folder} is not on this machine")
    return folder


@pytest.fixture(autouse=True)
def loggers_as_they_were():
    """A test that sets up logging leaves nothing behind: its handlers write to its own streams."""
    from detectron2.utils.logger import setup_logger

    names = (None, "detectron2", "fvcore", "lvt_d2")
    before = {
        name: (log.handlers[:], log.level, log.propagate)
        for name in names
        for log in [logging.getLogger(name)]
    }
    yield
    for name, (handlers, level, propagate) in before.items():
        logger = logging.getLogger(name)
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate
    setup_logger.cache_clear()


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Folder of recorded reference numbers; tests that need it skip where it is missing."""
    return _reference_folder("goldens")


@pytest.fixture(scope="session")
def coco_sample() -> Path:
    """Folder of two real COCO images with panoptic annotation."""
    return _reference_folder("coco_sample")


@pytest.fixture(scope="session")
def synth():
    """The module that makes the synthetic weights and inputs of the reference numbers."""
    import importlib.util

    path = _reference_folder("goldens") / "official" / "synth.py"
    spec = importlib.util.spec_from_file_location("synth", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
