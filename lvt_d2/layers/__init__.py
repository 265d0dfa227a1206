"""The layers of LVT. All maps are channels-last: ``(B, H, W, C)``."""

from lvt_d2.layers.atrous_query import AtrousQuery
from lvt_d2.layers.block import Block
from lvt_d2.layers.csa import CSA
from lvt_d2.layers.mlp import MLP
from lvt_d2.layers.norm import group_norm, sync_batch_norm
from lvt_d2.layers.patch_embed import PatchEmbed
from lvt_d2.layers.rasa import RASA

__all__ = [
    "CSA",
    "MLP",
    "RASA",
    "AtrousQuery",
    "Block",
    "PatchEmbed",
    "group_norm",
    "sync_batch_norm",
]
