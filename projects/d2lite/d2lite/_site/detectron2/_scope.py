"""Says of Detectron2's names that are not part of d2lite that they are not, and where to get them.

A package of d2lite has one line for it and all below it (after its imports)::

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

# Modules of Detectron2 that d2lite leaves out, with all that they hold.
_MODULES = frozenset(
    """_C checkpoint.catalog config.compat data.benchmark data.datasets.cityscapes
    data.datasets.cityscapes_panoptic data.datasets.lvis data.datasets.lvis_v0_5_categories
    data.datasets.lvis_v1_categories data.datasets.lvis_v1_category_image_count
    data.datasets.pascal_voc evaluation.cityscapes_evaluation evaluation.fast_eval_api
    evaluation.lvis_evaluation evaluation.pascal_voc_evaluation evaluation.rotated_coco_evaluation
    export layers.aspp layers.deform_conv layers.roi_align_rotated layers.rotated_boxes
    modeling.backbone.mvit modeling.backbone.regnet modeling.backbone.resnet modeling.backbone.swin
    modeling.backbone.utils modeling.backbone.vit modeling.meta_arch.dense_detector
    modeling.meta_arch.fcos modeling.meta_arch.retinanet modeling.mmdet_wrapper
    modeling.proposal_generator.rrpn modeling.roi_heads.cascade_rcnn
    modeling.roi_heads.keypoint_head modeling.roi_heads.rotated_fast_rcnn projects
    structures.keypoints structures.rotated_boxes tracking utils.develop utils.torch_version_utils
    utils.tracing""".split()
)
# Names that d2lite leaves out of the modules that it has.
_NAMES = frozenset(
    """annotations_to_instances_rotated AnyNet ASPP AutogradProfiler BaseKeypointRCNNHead
    BasicBlock BasicStem batched_nms_rotated BottleneckBlock Box2BoxTransformRotated
    build_keypoint_head build_resnet_backbone build_resnet_fpn_backbone
    build_retinanet_resnet_fpn_backbone CascadeROIHeads CITYSCAPES_CATEGORIES CityscapesEvaluator
    CityscapesInstanceEvaluator CityscapesSemSegEvaluator COCO_PERSON_KEYPOINT_FLIP_MAP
    COCO_PERSON_KEYPOINT_NAMES COCOeval_opt create_keypoint_hflip_indices CycleBatchNormList
    DataLoaderBenchmark deform_conv DeformBottleneckBlock DeformConv DenseDetector downgrade_config
    fast_rcnn_inference_rotated fast_rcnn_inference_single_image_rotated FCOS FCOSHead
    filter_images_with_few_keypoints find_top_rrpn_proposals get_fed_loss_cls_weights
    get_lvis_instances_meta get_vit_lr_decay_rate heatmaps_to_keypoints HFlip_rotated_box
    iter_benchmark KEYPOINT_CONNECTION_RULES keypoint_rcnn_inference keypoint_rcnn_loss Keypoints
    KRCNNConvDeconvUpsampleHead load_cityscapes_instances load_cityscapes_panoptic
    load_cityscapes_semantic load_lvis_json load_proposals_into_dataset load_voc_instances
    LVISEvaluator make_stage MMDetBackbone MMDetDetector modulated_deform_conv ModulatedDeformConv
    MViT nms_rotated pairwise_iou_rotated PascalVOCDetectionEvaluator paste_mask_in_image_old
    permute_to_N_HWA_K register_all_cityscapes register_all_cityscapes_panoptic register_all_lvis
    register_all_pascal_voc register_lvis_instances register_pascal_voc RegNet Res5ROIHeads
    Resize_rotated_box ResNet ResNetBlockBase RetinaNet RetinaNetHead roi_align_rotated
    ROI_KEYPOINT_HEAD_REGISTRY ROIAlignRotated RotatedAnchorGenerator RotatedBoxes RotatedCOCOeval
    RotatedCOCOEvaluator RotatedFastRCNNOutputLayers RROIHeads RRPN
    select_proposals_with_visible_keypoints SimpleFeaturePyramid SwinTransformer
    transform_keypoint_annotations transform_proposals upgrade_config ViT""".split()
)


def out_of_scope(name: str) -> str | None:
    """Message on a full dotted name that Detectron2 has and d2lite leaves out, else None."""
    root, *parts = name.split(".")
    modules = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    if root != "detectron2" or not (modules & _MODULES or _NAMES.intersection(parts)):
        return None
    return (
        f"{name} is not part of d2lite, which holds the part of Detectron2 that this project "
        f"needs. Detectron2 has it: install detectron2 ({_INSTALL_PAGE})"
    )


def missing_attribute(module: str) -> Callable[[str], object]:
    """Module-level ``__getattr__`` for `module`: AttributeError, ImportError in a `from` import.

    Its modules that are loaded by then, and theirs, get one too.
    """
    for name in [name for name in sys.modules if name.startswith(f"{module}.")]:
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
