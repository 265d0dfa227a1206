"""LVT as an image classifier, with the methods that timm expects of its models.

Both classes wrap the backbone under ``backbone.``; this module needs timm, the backbone does not.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers import ClassifierHead
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from lvt_d2.checkpoint.official import KINDS, convert_official, is_official
from lvt_d2.errors import CheckpointError
from lvt_d2.layers.class_attention import ClassBlock
from lvt_d2.layers.init import init_linear
from lvt_d2.modeling.lvt import LVT, STAGES, STRIDES
from lvt_d2.modeling.mix_token import Box, BoxSampler, mix

GRID = STRIDES[-1]  # pixels a side of a cell of the last map, and of mix-token's grid


class LVTModel(nn.Module):
    """What the two classifiers share: features of all stages, and loading of official files.

    Args:
        backbone: the network, which returns the maps of all its four stages.
        num_classes: classes; 0 leaves the heads out, and ``forward`` returns features.

    Raises:
        ValueError: the backbone returns some of its stages only.
    """

    def __init__(self, backbone: LVT, num_classes: int):
        super().__init__()
        channels = {name: shape.channels for name, shape in backbone.output_shape().items()}
        if list(channels) != list(STAGES):
            raise ValueError(
                f"the backbone returns {tuple(channels)}; a classifier needs out_features={STAGES}"
            )
        self.backbone = backbone
        self.num_classes = num_classes
        self.in_chans = backbone.stages[0].patch_embed.proj.in_channels
        self.num_features = self.head_hidden_size = channels[STAGES[-1]]
        self.feature_info = [
            dict(num_chs=channels[name], reduction=stride, module=f"backbone.stages.{i}")
            for i, (name, stride) in enumerate(zip(STAGES, STRIDES, strict=True))
        ]
        self._last_stage = STAGES[-1]

    def forward_map(self, x: Tensor) -> Tensor:
        """The backbone's last map: (B, in_chans, H, W) -> (B, C, H/32, W/32), rounded up."""
        return self.backbone(x)[self._last_stage]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The maps of chosen stages, as timm's models return them.

        Args:
            x: images (B, in_chans, H, W).
            indices: stages 0 to 3, the last n if a number, all if None.
            norm: apply the final norm to the maps it fits: the last one of a model that has one.
            stop_early: leave out the stages behind the last one chosen.
            output_fmt: ``NCHW`` or ``NHWC``.
            intermediates_only: return the maps alone.

        Returns:
            The maps, or what ``forward_features`` returns and the maps. With ``stop_early``, or
            behind ``prune_intermediate_layers``, the former is the last map there is.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt is {output_fmt!r}; expected 'NCHW' or 'NHWC'")
        take, last = feature_take_indices(len(self.backbone.stages), indices)
        stop = last + 1 if stop_early else len(self.backbone.stages)
        maps = list(self.backbone.forward_stages(self.backbone.stem(x), stop).values())
        features = [self._norm_map(maps[i]) if norm and i == 3 else maps[i] for i in take]
        if output_fmt == "NHWC":
            features = [feature.permute(0, 2, 3, 1) for feature in features]
        if intermediates_only:
            return features
        return (self._finish(maps[-1]) if len(maps) == len(STAGES) else maps[-1]), features

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the maps of these stages don't need; returns their numbers from 0 to 3.

        Args:
            indices: as of ``forward_intermediates``.
            prune_norm: drop the final norm.
            prune_head: drop the classifier; it goes in any case where the last stage does.
        """
        take, last = feature_take_indices(len(self.backbone.stages), indices)
        shortened = last < len(self.backbone.stages) - 1
        self.backbone.limit(STAGES[: last + 1])
        self._last_stage = STAGES[last]
        self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or shortened:
            self._drop_head()
        if prune_norm or shortened:
            self._drop_norm()
        return take

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks' activations in the backward pass, or stop doing so."""
        self.backbone.use_checkpoint = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort the parameters by depth, for timm's layer-wise learning rates."""
        blocks = [
            (r"^backbone\.stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^backbone\.stages\.(\d+)\.patch_embed", (0,)),
        ]
        return {
            "stem": r"^backbone\.stages\.0\.patch_embed",
            "blocks": r"^backbone\.stages\.(\d+)" if coarse else blocks,
        }

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay beside all biases and norms."""
        return set()

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As of any module; official files' names are understood, too.

        Raises:
            CheckpointError: no entry is one of this model.
        """
        state_dict = own_names(state_dict)
        if state_dict and not set(state_dict) & set(self.state_dict()):
            raise CheckpointError(
                f"The checkpoint is of another model: none of its {len(state_dict)} entries "
                f"({', '.join(list(state_dict)[:3])}, ...) is one of {type(self).__name__}'s; "
                "expected backbone.stages.0.patch_embed.proj.weight or similar names."
            )
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def _finish(self, x: Tensor) -> Tensor:
        """From the last map to what ``forward_features`` returns."""
        return x

    def _norm_map(self, x: Tensor) -> Tensor:
        return x

    def _drop_norm(self) -> None:
        pass

    def _drop_head(self) -> None:
        raise NotImplementedError


class PooledLVT(LVTModel):
    """LVT with a pooled linear head: timm's ``lvt``.

    There is no norm between map and head: without classes it is the backbone and nothing else, with
    the published 3,429,092 parameters. The last stage opens with a LayerNorm of its own.

    Args:
        backbone: the network.
        num_classes: classes; 0 returns the pooled features.
        global_pool: ``avg``, ``max``, ``avgmax``, ``catavgmax`` as in timm; empty, without classes,
            returns the map.
        drop_rate: dropout before the head, 0..1.

    Shape:
        (B, in_chans, H, W) -> (B, num_classes); any H and W of at least 32 pixels.
    """

    def __init__(
        self,
        backbone: LVT,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ):
        super().__init__(backbone, num_classes)
        self.head = ClassifierHead(self.num_features, num_classes, global_pool, drop_rate)
        _init_head(self.head.fc, self)

    @property
    def global_pool(self) -> str:
        """How the head pools."""
        return self.head.global_pool.pool_type

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map: (B, in_chans, H, W) -> (B, C, H/32, W/32), rounded up."""
        return self.forward_map(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """From the map to classes, or with ``pre_logits`` to pooled features (B, C)."""
        return self.head(x, pre_logits=pre_logits)

    def get_classifier(self) -> nn.Module:
        """The linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Start with a new linear layer; the pooling stays where none is given."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)
        _init_head(self.head.fc, self)

    def _drop_head(self) -> None:
        self.reset_classifier(0, "")


class LVTClassifier(LVTModel):
    """The published ImageNet classifier, timm's ``lvt_cls``: class attention and two heads.

    A class token gathers the last map in two class-attention blocks; ``head`` reads it, and
    ``aux_head`` reads every other token.

    ``forward`` returns

    * ``head + 0.5 * max over tokens of aux_head``, (B, num_classes), in evaluation, and in training
      with ordinary labels;
    * ``(class logits, token logits, box)`` in training with ``token_labels``: (B, num_classes),
      (B, N, num_classes) of the N = H/32 * W/32 tokens row by row, and the ``Box`` in cells of
      that grid whose content came from the image at the batch's other end (``mix_token``; an empty
      one without). Token logits are swapped back to the image that they show: token n of image i
      is a statement on image i, whether n is in the box or not. The class logits are of the mixed
      image, ``1 - box.area / N`` of which is image i and the rest image ``B - 1 - i``.

    Args:
        backbone: the network.
        num_classes: classes; 0 returns the class token (or what ``global_pool`` says).
        global_pool: ``token`` gives the class token to ``head``, ``avg`` the mean of all tokens;
            empty, without classes, returns all tokens.
        drop_rate: dropout before the heads, 0..1.
        token_labels: train with token labels; the flag can be set at any time.
        mix_token: mix images in training with token labels; sides must then be multiples of 32.
        class_depth: class-attention blocks.
        class_heads: heads of their attention.

    Attributes:
        box_sampler: the ``BoxSampler`` of mix-token. Seed it in every process, and keep its
            ``state_dict`` in checkpoints to resume exactly; it is no part of the model's.

    Shape:
        (B, in_chans, H, W) -> (B, num_classes); any H and W of at least 32 pixels.
    """

    def __init__(
        self,
        backbone: LVT,
        num_classes: int = 1000,
        global_pool: str = "token",
        drop_rate: float = 0.0,
        token_labels: bool = False,
        mix_token: bool = True,
        class_depth: int = 2,
        class_heads: int = 8,
    ):
        super().__init__(backbone, num_classes)
        dim = self.num_features
        self.token_labels = token_labels
        self.mix_token = mix_token
        self.box_sampler = BoxSampler()
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.class_blocks = nn.ModuleList(ClassBlock(dim, class_heads) for _ in range(class_depth))
        self.norm = nn.LayerNorm(dim)
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)

    def forward(self, x: Tensor):
        if not torch.jit.is_scripting():  # a program has one type of result: the logits
            if self.training and self.token_labels:
                return self.forward_train(x)
        return self.forward_head(self.forward_features(x))

    def forward_train(self, x: Tensor, box: Box | None = None) -> tuple[Tensor, Tensor, Box]:
        """The pass for training with token labels; ``forward`` explains what it returns.

        Args:
            x: images (B, in_chans, H, W).
            box: in place of the one that mix-token draws.

        Raises:
            ValueError: the model has no heads, or images to be mixed have a side that is no
                multiple of 32.
        """
        if self.num_classes < 1:
            raise ValueError("training with token labels needs classes; num_classes is 0")
        box, mask = self._draw_box(x, box)
        embedded = self.backbone.stem(x)
        if mask is not None:
            embedded = mix(embedded, mask)
        last_map = self.backbone.forward_stages(embedded)[self._last_stage]
        tokens = self.head_drop(self._finish(last_map))
        token_logits = self.aux_head(tokens[:, 1:])
        if mask is not None:
            token_logits = mix(token_logits.unflatten(1, mask.shape), mask).flatten(1, 2)
        return self.head(self._pool(tokens)), token_logits, box

    def forward_features(self, x: Tensor) -> Tensor:
        """Normed tokens, the class token first: (B, in_chans, H, W) -> (B, 1 + N, C)."""
        return self._finish(self.forward_map(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """From tokens to classes, or with ``pre_logits`` to what the head reads: (B, C)."""
        x = self.head_drop(x)
        pooled = self._pool(x)
        if pre_logits or self.num_classes < 1:
            return pooled
        return self.head(pooled) + 0.5 * self.aux_head(x[:, 1:]).amax(dim=1)

    def get_classifier(self) -> nn.Module:
        """The linear layer on the class token; ``aux_head`` is its companion on the others."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Start with new heads; the pooling stays where none is given.

        Raises:
            ValueError: the pooling is unknown, or there is none to give one vector to the head.
        """
        pool = self.global_pool if global_pool is None else global_pool
        if pool not in ("token", "avg", "") or (num_classes > 0 and not pool):
            raise ValueError(
                f"global_pool is {pool!r}; expected 'token' or 'avg', or '' with num_classes=0"
            )
        self.num_classes = num_classes
        self.global_pool = pool
        for name in ("head", "aux_head"):
            head = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
            setattr(self, name, _init_head(head, self))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """As in the parent; the class token, its blocks and the norm come last."""
        return super().group_matcher(coarse) | {
            "class_blocks": [
                (r"^cls_token", (0,)),
                (r"^class_blocks\.(\d+)", None),
                (r"^norm", (99999,)),  # joins the group before it
            ]
        }

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay beside all biases and norms."""
        return {"cls_token"}

    def _draw_box(self, x: Tensor, box: Box | None) -> tuple[Box, Tensor | None]:
        """The box and its mask; an empty one and None where nothing is mixed."""
        if box is None and not self.mix_token:
            return Box(0, 0, 0, 0), None
        height, width = x.shape[-2:]
        if height % GRID or width % GRID:
            raise ValueError(
                f"mix-token got images of {height}x{width} pixels; expected sides that are "
                f"multiples of {GRID}. Resize or pad them, or set mix_token=False"
            )
        return _box_and_mask(self.box_sampler, box, height // GRID, width // GRID, x.device)

    def _finish(self, x: Tensor) -> Tensor:
        if self.cls_token is None:  # pruned: there is nothing behind the map
            return x
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        for block in self.class_blocks:
            x = block(x)
        return self.norm(x)

    def _pool(self, x: Tensor) -> Tensor:
        if self.global_pool == "token":
            return x[:, 0]
        return x.mean(dim=1) if self.global_pool == "avg" else x

    def _norm_map(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _drop_norm(self) -> None:
        self.norm = nn.Identity()

    def _drop_head(self) -> None:
        self.reset_classifier(0, "")
        self.class_blocks = nn.ModuleList()
        self.cls_token = None


def own_names(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """A state dict under the classifiers' names, where it has those of an official file.

    Raises:
        CheckpointError: it is an official segmentation model, or has missing or unknown entries.
    """
    if not is_official(state_dict):
        return state_dict
    converted = convert_official(state_dict)
    if converted.kind == "backbone":
        return {f"backbone.{name}": tensor for name, tensor in converted.model.items()}
    if converted.kind != "classifier":
        raise CheckpointError(
            f"The checkpoint is the official {KINDS[converted.kind]}; expected a classifier's or a "
            "backbone's."
        )
    return converted.model


def _init_head(head: nn.Module, model: nn.Module) -> nn.Module:
    """Fresh weights, on the model's device, in its type and mode; Identity has none."""
    if isinstance(head, nn.Linear):
        init_linear(head)
    return head.to(next(model.parameters())).train(model.training)


@torch.compiler.disable  # numbers that change with every call would be compiled in
def _box_and_mask(
    sampler: BoxSampler, box: Box | None, height: int, width: int, device: torch.device
) -> tuple[Box, Tensor]:
    box = sampler(height, width) if box is None else Box(*box)
    return box, box.mask(height, width, device)
