"""Names that d2lite leaves out say so; other wrong names are plain errors."""

import importlib
import importlib.util
import pkgutil
import sys

import detectron2
import pytest
from detectron2 import _scope
from detectron2.config import LazyCall, instantiate

MESSAGE = "is not part of d2lite.*Detectron2 has it: install detectron2"
MODULES = [
    module.name
    for module in pkgutil.walk_packages(detectron2.__path__, "detectron2.")
    if ".configs." not in module.name
]
PACKAGES = [
    "config",
    "data",
    "engine",
    "evaluation",
    "layers",
    "model_zoo",
    "modeling",
    "structures",
]


@pytest.mark.parametrize(
    "statement",
    [
        "import detectron2.tracking",
        "import detectron2.projects.point_rend",
        "import detectron2.modeling.backbone.swin",
        "from detectron2 import tracking",
        "from detectron2.export import TracingAdapter",
        "from detectron2.export.caffe2_export import export_caffe2_detection_model",
        "from detectron2.modeling.backbone.resnet import ResNet",
        "from detectron2.modeling import ResNet",
        "from detectron2.config import upgrade_config",
        "from detectron2.layers import DeformConv",
        "from detectron2.layers import Conv2d, ROIAlignRotated",
        "from detectron2.structures import RotatedBoxes, Boxes",
        "from detectron2.evaluation import LVISEvaluator",
        "from detectron2.engine.hooks import AutogradProfiler",
        "from detectron2.modeling.backbone.fpn import FPN, build_resnet_fpn_backbone",
        "from detectron2.modeling.box_regression import Box2BoxTransformRotated",
        "from detectron2.modeling.anchor_generator import RotatedAnchorGenerator",
        "from detectron2.modeling.roi_heads.roi_heads import Res5ROIHeads",
        "from detectron2.modeling.roi_heads.fast_rcnn import RotatedFastRCNNOutputLayers",
        "from detectron2.structures.boxes import RotatedBoxes",
        "from detectron2.layers.mask_ops import paste_mask_in_image_old",
        "from detectron2.layers.nms import batched_nms_rotated",
        "from detectron2.data.datasets import register_pascal_voc",
        "from detectron2.data.datasets.builtin import register_all_lvis",
        "from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES",
        "from detectron2.data.transforms.transform import HFlip_rotated_box",
        "from detectron2.evaluation.coco_evaluation import COCOeval_opt",
    ],
)
def test_imports_say_it(statement):
    with pytest.raises(ImportError, match=MESSAGE):
        exec(statement)


def test_attributes_say_it():
    import detectron2.layers

    with pytest.raises(AttributeError, match=MESSAGE):
        detectron2.layers.DeformConv  # noqa: B018
    with pytest.raises(AttributeError, match=MESSAGE):
        detectron2.tracking  # noqa: B018
    assert not hasattr(detectron2.layers, "DeformConv")
    assert getattr(detectron2.layers, "DeformConv", None) is None


def test_configs_say_it():
    with pytest.raises(ImportError, match="detectron2.modeling.ResNet " + MESSAGE):
        instantiate(LazyCall("detectron2.modeling.ResNet")(depth=50))


@pytest.mark.parametrize(
    "statement, words",
    [
        ("import detectron2.trackingg", "No module named 'detectron2.trackingg'"),
        ("from detectron2.layers import Conv2dd", "cannot import name 'Conv2dd' from"),
        ("from detectron2 import nothing", "cannot import name 'nothing' from"),
        ("import detectron2.layers.nothing", "No module named"),
    ],
)
def test_typos_keep_python_s_text(statement, words):
    with pytest.raises(ImportError, match=words):
        exec(statement)


def test_typo_of_an_attribute():
    import detectron2.layers

    with pytest.raises(AttributeError, match="module 'detectron2.layers' has no attribute 'Conv'"):
        detectron2.layers.Conv  # noqa: B018


def test_other_packages_are_not_ours():
    assert _scope.out_of_scope("projects.point_rend") is None
    assert _scope.out_of_scope("elsewhere.layers.DeformConv") is None
    with pytest.raises(ModuleNotFoundError, match="No module named 'projects_x'"):
        import projects_x  # noqa: F401


def test_there_is_one_finder():
    importlib.reload(_scope)
    names = [type(finder).__name__ for finder in sys.meta_path]
    assert names.count("_ScopeFinder") == 1


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports_and_none_is_listed_as_missing(name):
    importlib.import_module(name)
    assert name.removeprefix("detectron2.") not in _scope._MODULES


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_uses_the_helper(package):
    assert hasattr(importlib.import_module(f"detectron2.{package}"), "__getattr__")


@pytest.mark.parametrize("name", MODULES)
def test_no_name_that_exists_is_listed_as_missing(name):
    assert not _scope._NAMES & set(vars(importlib.import_module(name)))
