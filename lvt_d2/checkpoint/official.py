"""Reads the published LVT weights: tables from the official parameter names to ours.

Four files exist: the ImageNet classifier, its backbone alone, SegFormer for ADE20K and Panoptic FPN
for COCO. Every entry of a file must stand in the table of its kind, and every name of the table in
the file, so that nothing is dropped or left out unnoticed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lvt_d2.errors import CheckpointError

KINDS = {
    "classifier": "ImageNet classifier",
    "backbone": "LVT backbone",
    "segformer": "SegFormer with LVT",
    "panoptic": "Panoptic FPN with LVT",
}


@dataclass(frozen=True)
class Entry:
    """Where an official parameter goes.

    Attributes:
        name: ours; None drops the parameter.
        convert: from the official tensor to ours.
    """

    name: str | None
    convert: Callable[[Tensor], Tensor] = field(default=lambda tensor: tensor)


@dataclass(frozen=True)
class Converted:
    """An official checkpoint under our names.

    Attributes:
        kind: a key of ``KINDS``.
        weights: the key of the file the weights come from (``state_dict``, ``state_dict_ema``, or
            an empty string where the file itself is the state dict).
        names: official name -> our name, or None where the parameter is not used.
        model: our state dict.
    """

    kind: str
    weights: str
    names: dict[str, str | None]
    model: dict[str, Tensor]


def convert_official(checkpoint: Any, ema: bool = False) -> Converted:
    """Turn an official checkpoint into our names and layouts.

    Args:
        checkpoint: what the file holds: a state dict, or a dict with one under ``state_dict``.
        ema: take the averaged weights, ``state_dict_ema``, instead.

    Raises:
        CheckpointError: not an official checkpoint, or one with missing or unknown entries.
    """
    weights, state = find_state_dict(checkpoint, ema)
    kind = detect_kind(state)
    if kind is None:
        raise CheckpointError(
            "This is no official LVT checkpoint: its entries are called "
            f"{_some(list(state))}; expected backbone.0.0.proj.weight or similar names."
        )
    table = TABLES[kind]()
    missing = [name for name in table if name not in state]
    unknown = [name for name in state if name not in table]
    if missing or unknown:
        raise CheckpointError(
            f"This looks like the official checkpoint of the {KINDS[kind]} ({len(table)} entries), "
            f"but {len(missing)} entries are missing ({_some(missing)}) and {len(unknown)} are "
            f"unknown ({_some(unknown)}). Nothing was converted; check that the file is the "
            "published one."
        )
    model = {}
    for name, tensor in state.items():
        entry = table[name]
        if entry.name is not None:
            model[entry.name] = _convert(name, tensor, entry)
    return Converted(kind, weights, {name: table[name].name for name in state}, model)


def is_official(checkpoint: Any) -> bool:
    """Whether a file's content has the parameter names of the official code."""
    try:
        return detect_kind(find_state_dict(checkpoint)[1]) is not None
    except CheckpointError:
        return False


def detect_kind(names: Mapping[str, Any]) -> str | None:
    """The key of ``KINDS`` that official parameter names belong to; None for other names."""
    parts = {name.split(".")[0] for name in names}
    if "backbone.backbone.0.0.proj.weight" in names:  # a network's attribute, in a detector's
        if parts & {"neck", "rpn_head", "roi_head", "semantic_head"}:
            return "panoptic"
        return "segformer" if "decode_head" in parts else None
    if "backbone.0.0.proj.weight" in names:
        heads = {"cls_token", "post_network", "norm", "head", "aux_head"}
        return "classifier" if parts & heads else "backbone"
    return None


def find_state_dict(checkpoint: Any, ema: bool = False) -> tuple[str, dict[str, Tensor]]:
    """The state dict inside of a checkpoint's containers, and the key it stood under.

    Prefixes that training puts before all names are removed: ``module.`` of data-parallel models,
    ``_orig_mod.`` of compiled ones.

    Raises:
        CheckpointError: there is none, or none of averaged weights where ``ema`` asks for it.
    """
    key = "state_dict_ema" if ema else "state_dict"
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(
            f"The checkpoint is a {type(checkpoint).__name__}; expected a dict of tensors."
        )
    if isinstance(checkpoint.get(key), Mapping):
        state = checkpoint[key]
    elif ema:
        raise CheckpointError(
            "The checkpoint holds no averaged weights (state_dict_ema); it has "
            f"{_some([str(k) for k in checkpoint])}. Ask for the others, without ema."
        )
    else:
        key, state = "", checkpoint
    wrong = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if wrong or not state:
        raise CheckpointError(
            f"The checkpoint holds no state dict: {len(wrong)} of {len(state)} entries are not "
            f"tensors ({_some(wrong)}). Expected parameter names and tensors, bare or under "
            "'state_dict'."
        )
    for prefix in ("_orig_mod.", "module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return key, dict(state)


def _convert(name: str, tensor: Tensor, entry: Entry) -> Tensor:
    try:
        return entry.convert(tensor).contiguous()
    except (RuntimeError, IndexError) as error:
        raise CheckpointError(
            f"Entry {name} of the official checkpoint has shape {tuple(tensor.shape)}, which does "
            f"not fit {entry.name}: {error}"
        ) from error


def _some(names: list[str], limit: int = 5) -> str:
    """The first few of a list of names, in words."""
    if not names:
        return "none"
    rest = f", ... {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


# ---- layouts that differ -------------------------------------------------------------------------


def _position_matrices(weight: Tensor) -> Tensor:
    """CSA's values, nine C x C matrices one below the other: (9C, C, 1, 1) -> (9, C, C)."""
    return weight.flatten(1).unflatten(0, (9, -1))


def _as_linear(weight: Tensor) -> Tensor:
    """The weight of a linear layer, which may stand there as a 1x1 convolution's."""
    return weight if weight.ndim == 2 else weight.squeeze(-1).squeeze(-1)


def _things_first(rows: Tensor) -> Tensor:
    """Classes 0..52 stuff and 53 things -> Detectron2's 0 things and 1..53 stuff."""
    return torch.cat([rows[-1:], rows[:-1]])


# ---- tables: official name -> Entry --------------------------------------------------------------

STAGES, BLOCKS = range(4), range(2)


def _layer(official: str, ours: str, **convert: Callable) -> dict[str, Entry]:
    """Weight and bias of a layer; ``weight=`` and ``bias=`` are converters."""
    return {
        f"{official}.{part}": Entry(f"{ours}.{part}", *filter(None, [convert.get(part)]))
        for part in ("weight", "bias")
    }


def _weight(official: str, ours: str) -> dict[str, Entry]:
    return {f"{official}.weight": Entry(f"{ours}.weight")}


def _lvt(official: str, ours: str) -> dict[str, Entry]:
    """The LVT itself; both arguments are prefixes that end in a dot, or empty."""
    table = {}
    for stage in STAGES:
        theirs, own = f"{official}backbone.{stage}", f"{ours}stages.{stage}"
        for part in ("proj", "norm"):
            table |= _layer(f"{theirs}.0.{part}", f"{own}.patch_embed.{part}")
        for block in BLOCKS:
            table |= _block(f"{theirs}.1.{block}", f"{own}.blocks.{block}", stage)
    return table


def _block(official: str, ours: str, stage: int) -> dict[str, Entry]:
    table = {}
    for part in ("norm1", "norm2", "attn.proj"):
        table |= _layer(f"{official}.{part}", f"{ours}.{part}")
    for part in ("mlp.fc1", "mlp.fc2"):
        table |= _layer(f"{official}.{part}", f"{ours}.{part}", weight=_as_linear)
    if stage == 0:  # CSA
        table |= _layer(f"{official}.attn.attn", f"{ours}.attn.attention")
        values = Entry(f"{ours}.attn.value_weight", _position_matrices)
        return table | {f"{official}.attn.weight.weight": values}
    table |= _layer(f"{official}.mlp.depconv", f"{ours}.mlp.dwconv")
    table |= _weight(f"{official}.attn.q", f"{ours}.attn.q")
    table |= _weight(f"{official}.attn.kv", f"{ours}.attn.kv")
    table |= _weight(f"{official}.attn.ds", f"{ours}.attn.atrous")
    if stage < 3:  # the last stage does not reduce keys and values
        table |= _layer(f"{official}.attn.sr", f"{ours}.attn.sr")
        table |= _layer(f"{official}.attn.norm", f"{ours}.attn.sr_norm")
    return table


def _backbone() -> dict[str, Entry]:
    return _lvt("", "")


def _classifier() -> dict[str, Entry]:
    table = {"cls_token": Entry("cls_token"), **_lvt("", "backbone.")}
    for part in ("norm", "head", "aux_head"):
        table |= _layer(part, part)
    for block in range(2):
        official, ours = f"post_network.{block}", f"class_blocks.{block}"
        for part in ("norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            table |= _layer(f"{official}.{part}", f"{ours}.{part}")
        for part in ("attn.q", "attn.kv"):
            table |= _weight(f"{official}.{part}", f"{ours}.{part}")
    return table


def _segformer() -> dict[str, Entry]:
    official, ours = "decode_head", "sem_seg_head"
    table = _lvt("backbone.", "backbone.")
    for level in range(1, 5):
        part = f"linear_c{level}.proj"
        table |= _layer(f"{official}.{part}", f"{ours}.{part}", weight=_as_linear)
    table |= _weight(f"{official}.linear_fuse.conv", f"{ours}.linear_fuse")
    for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        norm = Entry(f"{ours}.linear_fuse.norm.{part}")
        table[f"{official}.linear_fuse.bn.{part}"] = norm
    table |= _layer(f"{official}.linear_pred", f"{ours}.linear_pred")
    # A layer that the official base class makes and its forward never calls.
    return table | {f"{official}.conv_seg.{part}": Entry(None) for part in ("weight", "bias")}


def _panoptic() -> dict[str, Entry]:
    table = _lvt("backbone.", "backbone.bottom_up.")
    for level in range(4):
        table |= _layer(f"neck.lateral_convs.{level}.conv", f"backbone.fpn_lateral{level + 2}")
        table |= _layer(f"neck.fpn_convs.{level}.conv", f"backbone.fpn_output{level + 2}")
    for official, ours in (
        ("rpn_head.rpn_conv", "proposal_generator.rpn_head.conv"),
        ("rpn_head.rpn_cls", "proposal_generator.rpn_head.objectness_logits"),
        ("rpn_head.rpn_reg", "proposal_generator.rpn_head.anchor_deltas"),
        ("roi_head.bbox_head.shared_fcs.0", "roi_heads.box_head.fc1"),
        ("roi_head.bbox_head.shared_fcs.1", "roi_heads.box_head.fc2"),
        ("roi_head.bbox_head.fc_cls", "roi_heads.box_predictor.cls_score"),
        ("roi_head.bbox_head.fc_reg", "roi_heads.box_predictor.bbox_pred"),
        *(
            (f"roi_head.mask_head.convs.{i}.conv", f"roi_heads.mask_head.mask_fcn{i + 1}")
            for i in range(4)
        ),
        ("roi_head.mask_head.upsample", "roi_heads.mask_head.deconv"),
        ("roi_head.mask_head.conv_logits", "roi_heads.mask_head.predictor"),
    ):
        table |= _layer(official, ours)
    for level in range(4):
        for block in range(max(level, 1)):
            official = f"semantic_head.conv_upsample_layers.{level}.conv.{block}"
            ours = f"sem_seg_head.p{level + 2}.{2 * block}"  # every second module upsamples
            table |= _weight(f"{official}.conv", ours)
            table |= _layer(f"{official}.gn", f"{ours}.norm")
    return table | _layer(
        "semantic_head.conv_logits",
        "sem_seg_head.predictor",
        weight=_things_first,
        bias=_things_first,
    )


TABLES: dict[str, Callable[[], dict[str, Entry]]] = {
    "classifier": _classifier,
    "backbone": _backbone,
    "segformer": _segformer,
    "panoptic": _panoptic,
}
