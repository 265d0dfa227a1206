"""Models and the modules that they are made of."""

# ruff: noqa: F401
from detectron2 import _scope
from detectron2.layers import ShapeSpec

from .anchor_generator import ANCHOR_GENERATOR_REGISTRY, build_anchor_generator
from .backbone import BACKBONE_REGISTRY, FPN, Backbone, build_backbone
from .meta_arch.build import META_ARCH_REGISTRY, build_model
from .meta_arch.panoptic_fpn import PanopticFPN
from .meta_arch.rcnn import GeneralizedRCNN, ProposalNetwork
from .meta_arch.semantic_seg import SEM_SEG_HEADS_REGISTRY, SemanticSegmentor, build_sem_seg_head
from .postprocessing import detector_postprocess
from .proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY, build_proposal_generator
from .proposal_generator.rpn import RPN_HEAD_REGISTRY, build_rpn_head
from .roi_heads.box_head import ROI_BOX_HEAD_REGISTRY, build_box_head
from .roi_heads.fast_rcnn import FastRCNNOutputLayers
from .roi_heads.mask_head import ROI_MASK_HEAD_REGISTRY, BaseMaskRCNNHead, build_mask_head
from .roi_heads.roi_heads import ROI_HEADS_REGISTRY, ROIHeads, StandardROIHeads, build_roi_heads
from .test_time_augmentation import DatasetMapperTTA, GeneralizedRCNNWithTTA

__getattr__ = _scope.missing_attribute(__name__)
