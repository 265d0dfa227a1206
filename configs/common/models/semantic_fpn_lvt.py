"""Semantic FPN on LVT: Detectron2's FPN and SemSegFPNHead in their usual widths."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.fpn import FPN
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead

from lvt_d2.layers import sync_batch_norm
from lvt_d2.modeling import LVT

from .segformer_lvt import model

model.backbone = L(FPN)(
    bottom_up=L(LVT)(out_features=("res2", "res3", "res4", "res5")),
    in_features="${.bottom_up.out_features}",
    out_channels=256,
)
model.sem_seg_head = L(SemSegFPNHead)(
    input_shape={
        f"p{i}": L(ShapeSpec)(channels="${....backbone.out_channels}", stride=2**i)
        for i in range(2, 6)
    },
    num_classes=150,
    conv_dims=128,
    common_stride=4,
    norm=L(sync_batch_norm)(),
    ignore_value=255,
    loss_weight=1.0,
)
