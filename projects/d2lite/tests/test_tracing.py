"""Models and their parts as TorchScript and as graphs of torch.export."""

import pytest
import torch
from detectron2.layers import ROIAlign, ShapeSpec
from detectron2.modeling import FPN, Backbone, GeneralizedRCNN
from detectron2.modeling.backbone import LastLevelMaxPool, LastLevelP6P7
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, MaskRCNNConvUpsampleHead
from torch import nn

from projects.d2lite.tests.panoptic_reference import build_panoptic_fpn
from projects.d2lite.tests.roi_heads_parts import predictor

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning"
)


class TwoMaps(Backbone):
    def __init__(self):
        super().__init__()
        self.stem, self.stage = nn.Conv2d(3, 4, 3, 16, 1), nn.Conv2d(4, 6, 3, 2, 1)
        self._out_features = ["res4", "res5"]
        self._out_feature_channels = {"res4": 4, "res5": 6}
        self._out_feature_strides = {"res4": 16, "res5": 32}

    def forward(self, x):
        x = self.stem(x)
        return {"res4": x, "res5": self.stage(x)}


def pyramid(top_block, fuse_type="sum"):
    torch.manual_seed(0)
    return FPN(TwoMaps(), ["res4", "res5"], 8, top_block=top_block, fuse_type=fuse_type).eval()


def parts():
    """Modules with an input each."""
    torch.manual_seed(0)
    maps = [torch.randn(2, 8, 6, 6), torch.randn(2, 8, 3, 3)]
    pooled = torch.randn(5, 6, 4, 4)
    mask_head = MaskRCNNConvUpsampleHead(ShapeSpec(6, 4, 4), num_classes=3, conv_dims=[4, 4])
    return {
        "rpn_head": (StandardRPNHead(in_channels=8, num_anchors=3), (maps,)),
        "box_head": (FastRCNNConvFCHead(ShapeSpec(6, 4, 4), conv_dims=[4], fc_dims=[8]), (pooled,)),
        "box_predictor": (predictor(), (torch.randn(5, 8),)),
        "mask_layers": (nn.Sequential(*mask_head), (pooled,)),
        "roi_align": (
            ROIAlign((3, 3), 0.5, 2),
            (maps[0], torch.tensor([[0.0, 1, 1, 9, 9], [1, 0, 2, 5, 11]])),
        ),
    }


def flat(outputs):
    return torch.utils._pytree.tree_leaves(outputs)


@pytest.mark.parametrize("top", ["none", "max_pool", "p6p7"])
@pytest.mark.parametrize("fuse_type", ["sum", "avg"])
def test_pyramid(top, fuse_type):
    tops = {"none": lambda: None, "max_pool": LastLevelMaxPool, "p6p7": lambda: LastLevelP6P7(6, 8)}
    fpn, image = pyramid(tops[top](), fuse_type), torch.rand(1, 3, 64, 96)
    expected = fpn(image)
    traced = torch.jit.trace(fpn, (image,), strict=False)
    for graph in (traced, torch.export.export(fpn, (image,)).module()):
        outputs = graph(image)
        assert set(outputs) == set(expected)
        for name, value in expected.items():
            torch.testing.assert_close(outputs[name], value)


@pytest.mark.parametrize("name", list(parts()))
def test_scripted_and_exported_parts(name):
    module, inputs = parts()[name]
    expected = flat(module(*inputs))
    graphs = (torch.jit.script(module), torch.export.export(module, inputs, strict=False).module())
    for graph in graphs:
        for ours, theirs in zip(flat(graph(*inputs)), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


def random_image(height, width):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


def detections(instances):
    return [instances.get(name) for name in ("scores", "pred_classes", "pred_masks")] + [
        instances.pred_boxes.tensor
    ]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build_panoptic_fpn().eval().requires_grad_(False)
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    return model


def test_traced_models_take_other_sizes(model):
    parts = ("backbone", "proposal_generator", "roi_heads")
    statistics = {k: getattr(model, k).flatten().tolist() for k in ("pixel_mean", "pixel_std")}
    detector = GeneralizedRCNN(**{k: getattr(model, k) for k in parts}, **statistics).eval()

    def detect(image):
        return detections(detector.inference([{"image": image}], do_postprocess=False)[0])

    def segment(image):
        instances, logits = model.inference([{"image": image}], do_postprocess=False)
        return [logits, *detections(instances[0])]

    for run in (detect, segment):
        traced = torch.jit.trace(run, (random_image(70, 100),), check_trace=False)
        for size in ((90, 61), (64, 128)):
            image = random_image(*size)
            for ours, theirs in zip(traced(image), run(image), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
