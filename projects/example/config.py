"""Semantic segmentation of the generated shapes with a head, a mapper and a hook of one's own.

Configs are imported relatively, as files; code is imported absolutely, as modules.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from projects.example.head import OneLevelHead
from projects.example.hook import GradientNorm
from projects.example.mapper import GreyMapper

from ...configs.common.data.shapes_semantic import dataloader
from ...configs.common.models.segformer_lvt import model
from ...configs.common.optim import AdamW as optimizer
from ...configs.common.schedule import lr_multiplier_quick as lr_multiplier
from ...configs.common.train import train

model.sem_seg_head = L(OneLevelHead)(
    input_shape={"res3": L(ShapeSpec)(channels="${....backbone.embed_dims.1}", stride=8)},
    num_classes=9,
)
model.backbone.out_features = ("res3",)  # the later stages are not even built

dataloader.train.mapper._target_ = GreyMapper
dataloader.train.mapper.share = 0.3

train.hooks = [L(GradientNorm)(most=5.0)]
train.max_iter = 300
train.eval_period = 0
optimizer.lr = 1e-3
