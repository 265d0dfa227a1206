"""LVT as a Detectron2 backbone, and the options that the published models need."""

from lvt_d2.modeling.box_regression import SymmetricBox2BoxTransform
from lvt_d2.modeling.build import add_lvt_config, build_lvt_backbone, build_lvt_fpn_backbone
from lvt_d2.modeling.fast_rcnn import PanopticFastRCNNOutputLayers
from lvt_d2.modeling.lvt import LVT
from lvt_d2.modeling.matcher import FlooredMatcher
from lvt_d2.modeling.panoptic_fpn import MergePanopticFPN
from lvt_d2.modeling.segformer_head import SegFormerHead
from lvt_d2.modeling.sem_seg_head import PanopticSemSegHead
from lvt_d2.modeling.semantic_segmentor import MultiViewSemanticSegmentor

__all__ = [
    "LVT",
    "FlooredMatcher",
    "MergePanopticFPN",
    "MultiViewSemanticSegmentor",
    "PanopticFastRCNNOutputLayers",
    "PanopticSemSegHead",
    "SegFormerHead",
    "SymmetricBox2BoxTransform",
    "add_lvt_config",
    "build_lvt_backbone",
    "build_lvt_fpn_backbone",
]
