"""Analysis of whole models: sums, sizes, fvcore beside the published rule."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import SemanticSegmentor
from detectron2.utils.analysis import flop_count_operators
from torch import nn

from lvt_d2.analysis import analyze
from lvt_d2.modeling import LVT
from lvt_d2.modeling.segformer_head import SegFormerHead


@pytest.fixture(scope="module")
def segformer():
    torch.manual_seed(0)
    backbone = LVT()
    head = SegFormerHead(backbone.output_shape(), num_classes=150)
    return SemanticSegmentor(
        backbone=backbone, sem_seg_head=head, pixel_mean=(0.0,) * 3, pixel_std=(1.0,) * 3
    )


def test_segformer_head_is_counted_from_its_definition(segformer):
    head = analyze(segformer, (64, 96), fvcore=False).modules["sem_seg_head"]
    pixels = [16 * 24, 8 * 12, 4 * 6, 2 * 3]
    linears = sum(n * c * 256 + 256 for n, c in zip(pixels, (64, 64, 160, 256), strict=True))
    fused = pixels[0] * (1024 * 256 + 3 * 256)  # weights, norm, ReLU
    assert head.layers == linears + fused + pixels[0] * (256 * 150 + 150)
    assert head.products == 0


def test_parts_sum_up_and_the_model_is_left_alone(segformer):
    segformer.train()
    analysis = analyze(segformer, (64, 64))
    modules = analysis.modules
    for key in ("parameters", "layers", "products", "fvcore", "activations", "published"):
        parts = [getattr(modules[name], key) for name in ("backbone", "sem_seg_head")]
        assert getattr(analysis.total, key) == sum(parts) > 0
    assert segformer.training and not segformer.backbone._forward_hooks
    assert next(segformer.parameters()).device.type == "cpu"
    assert modules["sem_seg_head.linear_pred"].published is None


def test_products_before_padding_layers_after(segformer):
    padded, whole = (analyze(segformer, size, fvcore=False) for size in ((65, 97), (96, 128)))
    assert padded.padded == (96, 128) == whole.padded
    assert padded.total.layers == whole.total.layers
    assert padded.total.products < whole.total.products


def test_fvcore_counts_convolutions_products_and_attention():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, image):
            x = self.conv(image).flatten(2).transpose(1, 2)
            x = torch.nn.functional.scaled_dot_product_attention(x, x[:, :10], x[:, :10])
            return x @ x.new_ones(8)

    total = analyze(Attention(), (32, 32)).total
    assert total.fvcore == 1024 * 8 * 27 + 2 * 1024 * 10 * 8 + 1024 * 8
    assert total.layers == 1024 * 8 * (27 + 1) and total.products == 0
    assert total.activations == 1024 * 8 + 1024


def test_a_model_without_parameters():
    assert analyze(nn.ReLU(), (4, 5)).total.layers == 60


@pytest.mark.parametrize("name", ["panoptic_lvt", "mask_rcnn_lvt", "semantic_fpn_lvt"])
def test_detectron2_counts_the_operators_of_whole_models(name):
    config = Path(__file__).parents[2] / f"configs/{name}.py"
    model = instantiate(LazyConfig.load(str(config)).model).eval()
    image = {"image": torch.zeros(3, 64, 96), "height": 64, "width": 96}
    counted = flop_count_operators(model, [image])
    assert min(counted[operator] for operator in ("conv", "linear", "bmm", "layer_norm")) > 0
