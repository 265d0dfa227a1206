"""Packaging of LVT for Detectron2: the library `lvt_d2` and its pip-only engine `d2lite`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "lvt_d2/__init__.py").read_text()).group(1)
ENGINE = ROOT / "projects/d2lite/d2lite"

setup(
    name="lvt-d2",
    version=VERSION,
    description="LVT, the Lite Vision Transformer, for dense prediction with Detectron2",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=[*find_packages(include=["lvt_d2", "lvt_d2.*"]), "d2lite"],
    package_dir={"d2lite": "projects/d2lite/d2lite"},
    # The engine's `detectron2` is data of d2lite: no installation ever owns a top-level package
    # of that name but Detectron2's own.
    package_data={"d2lite": [str(p.relative_to(ENGINE)) for p in ENGINE.glob("_site/**/*.py")]},
    install_requires=[
        "cloudpickle",
        "fvcore>=0.1.5.post20221221",
        "hydra-core>=1.1",
        "iopath>=0.1.9",
        "matplotlib>=3.6",
        "numpy>=1.24",
        "omegaconf>=2.1,<2.4",
        "pillow>=9.5",
        "pycocotools>=2.0.6",
        "scipy>=1.10",
        "tabulate",
        "tensorboard",
        "termcolor>=1.1",
        "timm>=1.0.26",
        "torch>=2.4",
        "torchvision>=0.19",
        "tqdm>=4.60",
        "yacs>=0.1.8",
    ],
    extras_require={
        "imagenet": ["datasets>=2.14", "webdataset>=0.2"],
        "onnx": ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.1"],
        "test": [
            "datasets>=2.14",
            "hypothesis>=6",
            "onnx>=1.16",
            "onnxruntime>=1.18",
            "onnxscript>=0.1",
            "pytest>=8",
            "scikit-learn>=1.3",
            "webdataset>=0.2",
        ],
        "lint": ["ruff>=0.17"],
    },
)
