"""Says of Detectron2's names that are not part of d2lite that they are not, and where to get them.

A package of d2lite has one line for it and its modules (after its imports)::

    from detectron2._scope import missing_attribute

    __getattr__ = missing_attribute(__name__)

Missing submodules (``detectron2.tracking``) need nothing: this module's finder, last on
``sys.meta_path``, answers for them. A name that Detectron2 doesn't have either keeps Python's own
error text.
"""

import opcode
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder

_INSTALL_PAGE = "https://detectron2.readthedocs.io/tutorials/install.html"
_IMPORT_FROM = opcode.opmap["IMPORT_FROM"]

# Detectron2's modules; the finder speaks only for those that d2lite doesn't hold.
_MODULES = frozenset(
    """_C checkpoint.catalog data.benchmark data.datasets.cityscapes
    data.datasets.cityscapes_panoptic data.datasets.lvis data.datasets.lvis_v0_5_categories
    data.datasets.lvis_v1_categories data.datasets.lvis_v1_category_image_count
    data.datasets.pascal_voc evaluation.cityscapes_evaluation evaluation.fast_eval_api
    evaluation.lvis_evaluation evaluation.pascal_voc_evaluation
    evaluation.rotated_coco_evaluation export export.api export.c10 export.caffe2_export
    export.caffe2_inference export.caffe2_modeling export.caffe2_patch export.flatten
    export.shared export.torchscript export.torchscript_patch layers.aspp layers.deform_conv
    layers.roi_align_rotated layers.rotated_boxes modeling.backbone.mvit
    modeling.backbone.regnet modeling.backbone.resnet modeling.backbone.swin
    modeling.backbone.utils modeling.backbone.vit modeling.meta_arch.dense_detector
    modeling.meta_arch.fcos modeling.meta_arch.retinanet modeling.mmdet_wrapper
    modeling.proposal_generator.rrpn modeling.roi_heads.cascade_rcnn
    modeling.roi_heads.keypoint_head modeling.roi_heads.rotated_fast_rcnn projects
    projects.deeplab projects.panoptic_deeplab projects.point_rend structures.keypoints
    structures.rotated_boxes tracking tracking.base_tracker tracking.bbox_iou_tracker
    tracking.hungarian_tracker tracking.iou_weighted_hungarian_bbox_iou_tracker tracking.utils
    tracking.vanilla_hungarian_bbox_iou_tracker utils.develop utils.torch_version_utils
    utils.tracing""".split()
)
# Detectron2's names outside d2lite's scope, by the first part of the module's name.
_NAMES = {
    "data": """CITYSCAPES_CATEGORIES COCO_PERSON_KEYPOINT_FLIP_MAP COCO_PERSON_KEYPOINT_NAMES
    KEYPOINT_CONNECTION_RULES DataLoaderBenchmark HFlip_rotated_box Resize_rotated_box
    annotations_to_instances_rotated create_keypoint_hflip_indices get_lvis_instances_meta
    get_fed_loss_cls_weights iter_benchmark load_cityscapes_instances load_cityscapes_panoptic
    load_cityscapes_semantic load_lvis_json load_voc_instances register_all_cityscapes
    register_all_cityscapes_panoptic register_all_lvis register_all_pascal_voc
    register_lvis_instances register_pascal_voc transform_keypoint_annotations""",
    "evaluation": """COCOeval_opt CityscapesEvaluator CityscapesInstanceEvaluator
    CityscapesSemSegEvaluator LVISEvaluator PascalVOCDetectionEvaluator RotatedCOCOEvaluator
    RotatedCOCOeval""",
    "layers": """ASPP CycleBatchNormList DeformConv ModulatedDeformConv ROIAlignRotated
    batched_nms_rotated deform_conv modulated_deform_conv nms_rotated pairwise_iou_rotated
    paste_mask_in_image_old roi_align_rotated""",
    "modeling": """AnyNet BaseKeypointRCNNHead BasicBlock BasicStem BottleneckBlock
    Box2BoxTransformRotated CascadeROIHeads DeformBottleneckBlock DenseDetector FCOS FCOSHead
    KRCNNConvDeconvUpsampleHead MMDetBackbone MMDetDetector MViT ROI_KEYPOINT_HEAD_REGISTRY RRPN
    RROIHeads RegNet Res5ROIHeads ResNet ResNetBlockBase RetinaNet RetinaNetHead
    RotatedAnchorGenerator RotatedFastRCNNOutputLayers SimpleFeaturePyramid SwinTransformer ViT
    build_keypoint_head build_resnet_backbone build_resnet_fpn_backbone
    build_retinanet_resnet_fpn_backbone fast_rcnn_inference_rotated
    fast_rcnn_inference_single_image_rotated find_top_rrpn_proposals get_vit_lr_decay_rate
    keypoint_rcnn_inference keypoint_rcnn_loss make_stage permute_to_N_HWA_K
    select_proposals_with_visible_keypoints""",
    "structures": """Keypoints RotatedBoxes heatmaps_to_keypoints""",
}
_NAMES = {package: frozenset(names.split()) for package, names in _NAMES.items()}


def out_of_scope(name: str) -> str | None:
    """Message on a full dotted name that Detectron2 has and d2lite leaves out, else None."""
    root, _, inside = name.partition(".")
    parts = inside.split(".")
    prefixes = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    known = prefixes & _MODULES or _NAMES.get(parts[0], frozenset()) & set(parts[1:])
    if root != "detectron2" or not known:
        return None
    return (
        f"{name} is not part of d2lite, which holds the part of Detectron2 that this project "
        f"needs. Detectron2 has it: install detectron2 ({_INSTALL_PAGE})"
    )


def missing_attribute(module: str) -> Callable[[str], object]:
    """Module-level ``__getattr__`` for `module`: AttributeError, ImportError in a `from` import.

    A package's modules that are loaded by then get one too.
    """
    for name in [name for name in sys.modules if name.rpartition(".")[0] == module]:
        vars(sys.modules[name]).setdefault("__getattr__", missing_attribute(name))

    def __getattr__(name: str) -> object:
        message = out_of_scope(f"{module}.{name}")
        if message is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        # `from module import name` would replace an AttributeError's text by its own.
        frame = sys._getframe(1)
        if frame.f_code.co_code[frame.f_lasti] == _IMPORT_FROM:
            raise ImportError(message, name=module)
        raise AttributeError(message)

    return __getattr__


class _ScopeFinder(MetaPathFinder):
    """Raises for the modules of Detectron2 that no finder before it has found."""

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        if message := out_of_scope(fullname):
            raise ModuleNotFoundError(message, name=fullname)


if not any(type(finder).__name__ == _ScopeFinder.__name__ for finder in sys.meta_path):
    sys.meta_path.append(_ScopeFinder())
