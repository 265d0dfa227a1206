"""Models built from a yacs config, with a small registered backbone."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    FPN,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    RPN_HEAD_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    StandardROIHeads,
    build_backbone,
    build_model,
    build_proposal_generator,
)
from detectron2.modeling.backbone import LastLevelMaxPool
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from projects.d2lite.tests.panoptic_reference import PlainBackbone


def build_plain_test_backbone(cfg, input_shape):
    assert input_shape == ShapeSpec(channels=3)
    channels = dict.fromkeys(("res2", "res3", "res4", "res5"), 8)
    return FPN(PlainBackbone(channels), list(channels), 8, top_block=LastLevelMaxPool())


def build_no_backbone(cfg, input_shape):
    return torch.nn.Identity()


for builder in (build_plain_test_backbone, build_no_backbone):
    if builder.__name__ not in BACKBONE_REGISTRY:
        BACKBONE_REGISTRY.register(builder)


def config(architecture="GeneralizedRCNN"):
    """Detectron2's Base-RCNN-FPN, narrow."""
    cfg = get_cfg()
    model = cfg.MODEL
    model.META_ARCHITECTURE = architecture
    model.DEVICE = "cpu"
    model.BACKBONE.NAME = "build_plain_test_backbone"
    model.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    model.ANCHOR_GENERATOR.ASPECT_RATIOS = [[0.5, 1.0, 2.0]]
    model.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    model.RPN.PRE_NMS_TOPK_TRAIN = 200
    model.RPN.PRE_NMS_TOPK_TEST = 100
    model.RPN.POST_NMS_TOPK_TRAIN = 50
    model.RPN.POST_NMS_TOPK_TEST = 40
    model.ROI_HEADS.NAME = "StandardROIHeads"
    model.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    model.ROI_HEADS.NUM_CLASSES = 4
    model.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    model.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    model.ROI_BOX_HEAD.NUM_FC = 2
    model.ROI_BOX_HEAD.FC_DIM = 16
    model.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    model.MASK_ON = True
    model.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    model.ROI_MASK_HEAD.NUM_CONV = 2
    model.ROI_MASK_HEAD.CONV_DIM = 8
    model.ROI_MASK_HEAD.POOLER_RESOLUTION = 14
    model.SEM_SEG_HEAD.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    model.SEM_SEG_HEAD.NUM_CLASSES = 6
    model.SEM_SEG_HEAD.CONVS_DIM = 32
    return cfg


def inputs():
    truth = Instances(
        (64, 64),
        gt_boxes=Boxes(torch.tensor([[5.0, 6, 40, 50]])),
        gt_classes=torch.tensor([2]),
        gt_masks=BitMasks(torch.ones(1, 64, 64, dtype=torch.bool)),
    )
    return [
        {
            "image": torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8),
            "instances": truth,
            "sem_seg": torch.ones(64, 64, dtype=torch.int64),
        }
    ]


@pytest.mark.parametrize(
    "architecture, losses, results",
    [
        (
            "GeneralizedRCNN",
            {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"},
            {"instances"},
        ),
        (
            "PanopticFPN",
            {
                "loss_sem_seg",
                "loss_rpn_cls",
                "loss_rpn_loc",
                "loss_cls",
                "loss_box_reg",
                "loss_mask",
            },
            {"instances", "sem_seg", "panoptic_seg"},
        ),
        ("SemanticSegmentor", {"loss_sem_seg"}, {"sem_seg"}),
        ("ProposalNetwork", {"loss_rpn_cls", "loss_rpn_loc"}, {"proposals"}),
    ],
)
def test_every_architecture_trains_and_predicts(architecture, losses, results):
    model = build_model(config(architecture))
    assert type(model).__name__ == architecture and model.training
    with EventStorage():
        found = model(inputs())
    assert set(found) == losses
    sum(found.values()).backward()
    with torch.no_grad():
        assert set(model.eval()(inputs())[0]) == results


def test_registries_hold_their_names():
    for registry, names in {
        META_ARCH_REGISTRY: ["GeneralizedRCNN", "PanopticFPN", "ProposalNetwork"],
        PROPOSAL_GENERATOR_REGISTRY: ["RPN"],
        RPN_HEAD_REGISTRY: ["StandardRPNHead"],
        ROI_HEADS_REGISTRY: ["StandardROIHeads"],
        ROI_BOX_HEAD_REGISTRY: ["FastRCNNConvFCHead"],
        ROI_MASK_HEAD_REGISTRY: ["MaskRCNNConvUpsampleHead"],
        SEM_SEG_HEADS_REGISTRY: ["SemSegFPNHead"],
        ANCHOR_GENERATOR_REGISTRY: ["DefaultAnchorGenerator"],
    }.items():
        assert all(name in registry for name in names)
    cfg = config("Nothing")
    with pytest.raises(KeyError, match="Nothing"):
        build_model(cfg)


def test_config_reaches_the_rpn():
    cfg = config()
    cfg.MODEL.RPN.CONV_DIMS = [8, -1]
    cfg.MODEL.RPN.LOSS_WEIGHT = 2.0
    cfg.MODEL.RPN.BBOX_REG_LOSS_WEIGHT = 3.0
    cfg.MODEL.RPN.BBOX_REG_LOSS_TYPE = "giou"
    cfg.MODEL.RPN.SMOOTH_L1_BETA = 0.25
    cfg.MODEL.RPN.BOUNDARY_THRESH = 7
    cfg.MODEL.RPN.NMS_THRESH = 0.6
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = 33
    cfg.MODEL.RPN.POSITIVE_FRACTION = 0.4
    cfg.MODEL.RPN.IOU_THRESHOLDS = [0.2, 0.8]
    cfg.MODEL.RPN.BBOX_REG_WEIGHTS = (1.0, 2.0, 3.0, 4.0)
    cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE = 5
    rpn = build_model(cfg).proposal_generator
    assert [name for name, _ in rpn.rpn_head.conv.named_children()] == ["conv0", "conv1"]
    assert rpn.loss_weight == {"loss_rpn_cls": 2.0, "loss_rpn_loc": 6.0}
    assert (rpn.box_reg_loss_type, rpn.smooth_l1_beta) == ("giou", 0.25)
    assert (rpn.anchor_boundary_thresh, rpn.nms_thresh, rpn.min_box_size) == (7, 0.6, 5.0)
    assert (rpn.batch_size_per_image, rpn.positive_fraction) == (33, 0.4)
    assert rpn.pre_nms_topk == {True: 200, False: 100}
    assert rpn.post_nms_topk == {True: 50, False: 40}
    assert rpn.anchor_matcher.thresholds[1:-1] == [0.2, 0.8]
    assert rpn.anchor_matcher.allow_low_quality_matches
    assert tuple(rpn.box2box_transform.weights) == (1, 2, 3, 4)


def test_config_reaches_the_heads():
    cfg = config()
    cfg.VIS_PERIOD = 9
    cfg.TEST.DETECTIONS_PER_IMAGE = 7
    heads, box, mask = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD
    heads.NMS_THRESH_TEST = 0.3
    heads.PROPOSAL_APPEND_GT = False
    heads.BATCH_SIZE_PER_IMAGE = 21
    box.NUM_CONV = 1
    box.CONV_DIM = 32
    box.NORM = "GN"
    box.CLS_AGNOSTIC_BBOX_REG = True
    box.BBOX_REG_LOSS_TYPE = "diou"
    box.BBOX_REG_LOSS_WEIGHT = 4.0
    box.USE_SIGMOID_CE = True
    box.TRAIN_ON_PRED_BOXES = True
    box.POOLER_TYPE = "ROIAlign"
    mask.CLS_AGNOSTIC_MASK = True
    roi = build_model(cfg).roi_heads
    assert (roi.batch_size_per_image, roi.proposal_append_gt) == (21, False)
    assert roi.train_on_pred_boxes and not roi.proposal_matcher.allow_low_quality_matches
    assert not roi.box_pooler.level_poolers[0].aligned
    assert roi.box_head.conv1.norm.num_groups == 32
    predictor = roi.box_predictor
    assert predictor.bbox_pred.out_features == 4 and predictor.cls_score.out_features == 5
    assert predictor.loss_weight == {"loss_box_reg": 4.0}
    assert predictor.box_reg_loss_type == "diou" and predictor.use_sigmoid_ce
    assert (predictor.test_nms_thresh, predictor.test_topk_per_image) == (0.3, 7)
    assert roi.mask_head.predictor.out_channels == 1 and roi.mask_head.vis_period == 9
    assert [name for name, _ in roi.mask_head.named_children()][:3] == [
        "mask_fcn1",
        "mask_fcn2",
        "deconv",
    ]


def test_without_masks_and_with_precomputed_proposals():
    cfg = config()
    cfg.MODEL.MASK_ON = False
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    model = build_model(cfg)
    assert model.proposal_generator is None and not model.roi_heads.mask_on
    assert build_proposal_generator(cfg, {}) is None
    x = inputs()
    x[0]["proposals"] = Instances(
        (64, 64), proposal_boxes=Boxes(torch.rand(3, 4) * 20 + torch.tensor([0, 0, 20, 20]))
    )
    x[0]["proposals"].objectness_logits = torch.zeros(3)
    with EventStorage():
        assert set(model(x)) == {"loss_cls", "loss_box_reg"}
    assert len(model.eval()(x)[0]["instances"]) > 0


def test_mask_head_may_take_unpooled_maps():
    cfg = config()
    cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE = ""
    shapes = {}

    class TakesMaps(torch.nn.Module):
        def __init__(self, cfg, input_shape):
            super().__init__()
            shapes.update(input_shape)

    name = "TakesMapsTestHead"
    if name not in ROI_MASK_HEAD_REGISTRY:
        ROI_MASK_HEAD_REGISTRY._do_register(name, TakesMaps)
    cfg.MODEL.ROI_MASK_HEAD.NAME = name
    assert build_model(cfg).roi_heads.mask_pooler is None
    assert list(shapes) == ["p2", "p3", "p4", "p5"]


def test_keypoints_are_elsewhere():
    cfg = config()
    cfg.MODEL.KEYPOINT_ON = True
    with pytest.raises(NotImplementedError, match="install detectron2"):
        build_model(cfg)


def test_panoptic_options():
    cfg = config("PanopticFPN")
    combine = cfg.MODEL.PANOPTIC_FPN.COMBINE
    combine.OVERLAP_THRESH, combine.STUFF_AREA_LIMIT = 0.4, 77
    combine.INSTANCES_CONFIDENCE_THRESH = 0.6
    model = build_model(cfg)
    assert model.combine_overlap_thresh == 0.4
    assert model.combine_stuff_area_thresh == 77
    assert model.combine_instances_score_thresh == 0.6
    assert model.sem_seg_head.ignore_value == 255

    cfg.MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT = 0.5
    model = build_model(cfg)
    assert model.roi_heads.box_predictor.loss_weight == {"loss_box_reg": 0.5}
    assert model.roi_heads.mask_head.loss_weight == 0.5


def test_subclass_with_a_builder_of_its_own():
    class Extended(StandardROIHeads):
        @classmethod
        def _init_mask_head(cls, cfg, input_shape):
            return {}

    cfg = config()
    heads = Extended(cfg, build_backbone(cfg).output_shape())
    assert not heads.mask_on and heads.box_head is not None


def test_backbone_by_name():
    cfg = config()
    assert isinstance(build_backbone(cfg), FPN)
    cfg.MODEL.BACKBONE.NAME = "build_no_backbone"
    with pytest.raises(AssertionError, match="build_no_backbone"):
        build_backbone(cfg)


def test_federated_loss_from_a_config_needs_frequencies():
    cfg = config()
    cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE = True
    cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS = True
    with pytest.raises((ImportError, AttributeError, KeyError, ValueError, AssertionError)):
        build_model(cfg)
