"""LVT, the Lite Vision Transformer, as a Detectron2 backbone.

Paper: *Lite Vision Transformer with Enhanced Self-Attention*, CVPR 2022, arXiv 2112.10809.
Independent implementation, licensed Apache-2.0.
"""

from collections.abc import Sequence

import torch
import torch.fx
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lvt_d2.layers import CSA, MLP, RASA, Block, PatchEmbed

STAGES = ("res2", "res3", "res4", "res5")
STRIDES = (4, 8, 16, 32)


class LVT(Backbone):
    """Four stages at strides 4, 8, 16, 32: CSA in the first, RASA in the others.

    The outputs are the raw maps of the stages, without a final norm. The defaults are the published
    network of 3.43 M parameters.

    Args:
        in_chans: channels of the image.
        embed_dims: channels of each stage.
        depths: blocks of each stage.
        num_heads: attention heads of each stage.
        mlp_ratios: hidden channels of each stage's MLP, divided by its channels.
        sr_ratios: reduction of keys and values in stages 2 to 4, in pixels of their maps.
        atrous_rates: dilations of RASA's queries, in pixels of the stage's map.
        recursions: how often RASA applies its attention.
        drop_path_rate: stochastic depth of the last block, 0..1; it grows linearly from 0 at the
            first block.
        out_features: stages to return, of ``res2`` to ``res5``. Stages behind the last one
            are not built.
        freeze_at: 0 trains everything, 1 freezes the first patch embedding, n >= 2 all stages up to
            ``res{n}``, as in Detectron2's ResNet.
        use_checkpoint: recompute the blocks' activations in the backward pass to save memory.
        memory_efficient: recompute only what is large and cheap, the hidden numbers of CSA and of
            the MLPs: about half of the memory, at nearly no cost of time.

    Shape:
        (B, in_chans, H, W) -> ``{"res2": (B, 64, ceil(H/4), ceil(W/4)), ...}``; any H and W of at
        least 32 pixels.

    Raises:
        ValueError: arguments that contradict each other, or an image that is too small.
    """

    def __init__(
        self,
        in_chans: int = 3,
        embed_dims: Sequence[int] = (64, 64, 160, 256),
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (2, 2, 5, 8),
        mlp_ratios: Sequence[int] = (4, 8, 4, 4),
        sr_ratios: Sequence[int] = (4, 2, 1),
        atrous_rates: Sequence[int] = (1, 3, 5),
        recursions: int = 2,
        drop_path_rate: float = 0.0,
        out_features: Sequence[str] = STAGES,
        freeze_at: int = 0,
        use_checkpoint: bool = False,
        memory_efficient: bool = False,
    ):
        super().__init__()
        _check_per_stage(
            embed_dims=embed_dims, depths=depths, num_heads=num_heads, mlp_ratios=mlp_ratios
        )
        if len(sr_ratios) != len(STAGES) - 1:
            raise ValueError(
                f"sr_ratios is {tuple(sr_ratios)}; expected one for each of stages 2 to 4"
            )
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f"drop_path_rate is {drop_path_rate}; expected 0 <= rate < 1")
        self.use_checkpoint = use_checkpoint
        self._set_out_features(out_features)
        # TorchScript reads attributes, but no constants of a module.
        self._stage_names, self._size_divisibility = list(STAGES), STRIDES[-1]
        self._out_feature_channels = dict(zip(STAGES, embed_dims, strict=True))
        self._out_feature_strides = dict(zip(STAGES, STRIDES, strict=True))

        num_blocks = sum(depths)
        drop_path = [drop_path_rate * i / max(num_blocks - 1, 1) for i in range(num_blocks)]
        num_stages = STAGES.index(self._out_features[-1]) + 1
        self.stages = nn.ModuleList()
        for i, dim in enumerate(tuple(embed_dims)[:num_stages]):
            blocks = []
            for _ in range(depths[i]):
                if i == 0:
                    attn = CSA(dim, num_heads[i], memory_efficient)
                else:
                    attn = RASA(dim, num_heads[i], sr_ratios[i - 1], atrous_rates, recursions)
                mlp = MLP(dim, mlp_ratios[i], i > 0, memory_efficient)
                blocks.append(Block(dim, attn, mlp, drop_path.pop(0)))
            kernel_size, stride = (7, 4) if i == 0 else (3, 2)
            patch_embed = PatchEmbed(in_chans, dim, kernel_size, stride)
            self.stages.append(Stage(patch_embed, blocks))
            in_chans = dim
        # Maps are (B, H, W, C) throughout: kernels in that order save a copy in every call.
        self.to(memory_format=torch.channels_last)
        self._freeze(freeze_at)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.forward_stages(self.stem(x))

    def stem(self, x: Tensor) -> Tensor:
        """The first stage's patch embedding: (B, in_chans, H, W) -> (B, H', W', C)."""
        check_image_size(x)
        return self.stages[0].patch_embed(x.permute(0, 2, 3, 1))

    def forward_stages(self, x: Tensor, stop: int = 4) -> dict[str, Tensor]:
        """What follows the stem; in between, a training recipe may mix images.

        Args:
            x: what ``stem`` returns.
            stop: number of stages to run.

        Returns:
            What ``forward`` returns, as far as these stages give it.
        """
        recompute = self.use_checkpoint and self.training
        features: dict[str, Tensor] = {}
        for i, stage in enumerate(self.stages):
            if i < stop:
                x = stage(x, embedded=i == 0, recompute=recompute)
                if self._stage_names[i] in self._out_features:
                    features[self._stage_names[i]] = x.permute(0, 3, 1, 2)
        return features

    def limit(self, out_features: Sequence[str]) -> None:
        """Return these stages from now on, and drop those behind the last of them."""
        self._set_out_features(out_features)
        del self.stages[STAGES.index(self._out_features[-1]) + 1 :]

    def _set_out_features(self, out_features: Sequence[str]) -> None:
        if not out_features or not set(out_features) <= set(STAGES):
            raise ValueError(f"out_features is {tuple(out_features)}; expected some of {STAGES}")
        self._out_features = sorted(out_features)

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every returned map."""
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels[name], stride=self._out_feature_strides[name]
            )
            for name in self._out_features
        }

    @property
    def size_divisibility(self) -> int:
        """Sides to which batches are padded, so that the maps of all stages nest exactly.

        LVT itself takes any size; heads that add up upsampled maps do not.
        """
        return self._size_divisibility

    def _freeze(self, freeze_at: int) -> None:
        if not 0 <= freeze_at <= len(STAGES) + 1:
            raise ValueError(f"freeze_at is {freeze_at}; expected 0 to {len(STAGES) + 1}")
        frozen = [self.stages[0].patch_embed] if freeze_at == 1 else self.stages[: freeze_at - 1]
        for module in frozen if freeze_at else ():
            module.requires_grad_(False)


class Stage(nn.Module):
    """A patch embedding and the blocks behind it: (B, H, W, C) -> (B, H', W', C').

    With ``embedded`` the input is the embedding already.
    """

    def __init__(self, patch_embed: PatchEmbed, blocks: Sequence[Block]):
        super().__init__()
        self.patch_embed = patch_embed
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, embedded: bool = False, recompute: bool = False) -> Tensor:
        if not embedded:
            x = self.patch_embed(x)
        for block in self.blocks:
            if recompute and not torch.jit.is_scripting():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


@torch.fx.wrap  # a branch on the size of an input: symbolic tracing keeps it as a call
def check_image_size(x: Tensor) -> None:
    """Raise ValueError for an image of too few pixels: (B, in_chans, H, W)."""
    height, width = x.shape[2], x.shape[3]
    if height < 32 or width < 32:
        raise ValueError(
            f"the image is {height}x{width} pixels; LVT needs at least 32 a side: resize or pad it"
        )


def _check_per_stage(**arguments: Sequence[int]) -> None:
    for name, values in arguments.items():
        if len(values) != len(STAGES) or min(values) < 1:
            raise ValueError(
                f"{name} is {tuple(values)}; expected {len(STAGES)} positive integers, "
                "one for each stage"
            )
