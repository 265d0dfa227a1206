"""LVT as models of timm: ``timm.create_model("lvt_cls")`` and ``"lvt"``, after ``import lvt_d2``.

* ``lvt_cls`` is the published classifier, ``lvt_d2.modeling.classifier.LVTClassifier``;
* ``lvt`` is the same backbone under a pooled linear head, ``PooledLVT``.

Arguments are those of timm's models (``num_classes, in_chans, global_pool, drop_rate,
drop_path_rate, img_size, features_only, out_indices, ...``), of the classes, and of ``LVT``; an
unknown one raises TypeError. ``img_size`` is what the model's data config recommends; the network
takes any size. No weights are shipped: files are loaded by ``checkpoint_path=`` (strictly) or
``pretrained=True, pretrained_cfg_overlay=dict(file=...)``, official ones, too.
"""

import inspect
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import (
    build_model_with_cfg,
    clean_state_dict,
    generate_default_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from torch import Tensor, nn

from lvt_d2.errors import CheckpointError

logger = logging.getLogger(__name__)

_WEIGHTS = ("ema", "state_dict_ema", "model_ema", "state_dict", "model")  # averaged ones first


def _cfg(**kwargs: Any) -> dict[str, Any]:
    """The published evaluation: 224x224 pixels out of a shorter side of 224 / 0.96, bicubic."""
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.96,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "fixed_input_size": False,
        "first_conv": "backbone.stages.0.patch_embed.proj",
        "license": "apache-2.0",
        **kwargs,
    }


default_cfgs = generate_default_cfgs(
    {"lvt": _cfg(classifier="head.fc"), "lvt_cls": _cfg(classifier=("head", "aux_head"))}
)


@register_model
def lvt(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """LVT with a pooled linear head; with ``num_classes=0`` the backbone of 3,429,092 parameters.

    Raises:
        TypeError: an argument is unknown.
        CheckpointError: ``pretrained`` without a file, or with one that does not fit.
    """
    from lvt_d2.modeling.classifier import PooledLVT

    return _create("lvt", PooledLVT, pretrained, **kwargs)


@register_model
def lvt_cls(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The published classifier of 5,521,844 parameters: class attention, and a head on tokens.

    Raises:
        TypeError: an argument is unknown.
        CheckpointError: ``pretrained`` without a file, or with one that does not fit.
    """
    from lvt_d2.modeling.classifier import LVTClassifier

    return _create("lvt_cls", LVTClassifier, pretrained, **kwargs)


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """The weights of a checkpoint under the names of a model.

    Files of both models, of a backbone alone, and official ones are understood. Where file and
    model differ in what follows the backbone, the model keeps its own weights there, and the log
    says so.

    Args:
        state_dict: bare, or a checkpoint that has one, of which averaged weights are preferred.
        model: ``lvt`` or ``lvt_cls``.

    Raises:
        CheckpointError: there is no LVT in it.
    """
    from lvt_d2.modeling.classifier import own_names

    for key in _WEIGHTS:
        if isinstance(state_dict.get(key), Mapping):
            state_dict = state_dict[key]
            break
    state = dict(own_names(clean_state_dict(state_dict)))
    if "stages.0.patch_embed.proj.weight" in state:
        state = {f"backbone.{name}": tensor for name, tensor in state.items()}
    if "backbone.stages.0.patch_embed.proj.weight" not in state:
        raise CheckpointError(
            f"The checkpoint is of another model: it has {', '.join(list(state)[:3]) or 'nothing'}"
            ", ...; expected backbone.stages.0.patch_embed.proj.weight or the official names."
        )
    own = model.state_dict()
    if _heads(state) == _heads(own):
        return state
    kept = [name for name in own if not name.startswith("backbone.")]
    unused = [name for name in state if not name.startswith("backbone.")]
    logger.warning(
        "The checkpoint initialises the backbone. Random weights remain in: %s. Not used from the "
        "file: %s.",
        _modules(kept),
        _modules(unused),
    )
    state = {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}
    return state | {name: own[name] for name in kept}


def _create(
    variant: str,
    model_cls: type[nn.Module],
    pretrained: bool,
    img_size: int | tuple[int, int] | None = None,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    **kwargs: Any,
) -> nn.Module:
    overlay = dict(pretrained_cfg_overlay or {})
    cfg = resolve_pretrained_cfg(variant, pretrained_cfg, overlay)
    if img_size is not None:
        overlay |= _input_size(img_size, cfg.input_size[0])
    if pretrained:
        overlay |= _read_weights(variant, cfg)
    feature_cfg = {"out_indices": (0, 1, 2, 3), "feature_cls": "getter"}
    if kwargs.get("feature_cls", "getter") in ("hook", "fx"):
        feature_cfg["output_fmt"] = "NHWC"  # what the stages themselves return
    model = build_model_with_cfg(
        partial(_build, model_cls),
        variant,
        pretrained,
        pretrained_cfg=pretrained_cfg,
        pretrained_cfg_overlay=overlay,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=feature_cfg,
        **kwargs,
    )
    model.pretrained_cfg.pop("state_dict", None)  # loaded; the model is the place for weights
    return model


def _build(model_cls: type[nn.Module], **kwargs: Any) -> nn.Module:
    """A model of both its own arguments and its backbone's."""
    from lvt_d2.modeling import LVT

    options = [name for name in inspect.signature(LVT).parameters if name != "out_features"]
    backbone = LVT(**{name: kwargs.pop(name) for name in options if name in kwargs})
    return model_cls(backbone, **kwargs)


def _input_size(img_size: int | tuple[int, int], channels: int) -> dict[str, Any]:
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    if min(height, width) < 32:
        raise ValueError(f"img_size is {img_size}; LVT needs at least 32 pixels a side")
    return {
        "input_size": (channels, height, width),
        "pool_size": (-(-height // 32), -(-width // 32)),
    }


def _read_weights(variant: str, cfg: Any) -> dict[str, Any]:
    """Overlay that has timm take the weights of ``cfg.file`` as we read them: never executed."""
    from lvt_d2.checkpoint import read_checkpoint

    if cfg.state_dict or cfg.url or cfg.hf_hub_id or cfg.source == "local-dir":
        return {}
    if not cfg.file:
        raise CheckpointError(
            f"No weights of {variant} come with this project. Name a file, as in timm.create_model("
            f"'{variant}', pretrained=True, pretrained_cfg_overlay=dict(file='lvt_imagenet.pth.tar'"
            ")), or leave out pretrained=True for random weights."
        )
    if Path(cfg.file).suffix == ".safetensors":
        return {}
    content = read_checkpoint(cfg.file)
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"Checkpoint {cfg.file} holds no dict of weights; expected one.")
    return {"state_dict": content}


def _heads(names: Mapping[str, Any]) -> str:
    """What follows the backbone, told by the names of the parameters."""
    if "cls_token" in names:
        return "class attention"
    return "pooled" if "head.fc.weight" in names else ""


def _modules(names: list[str]) -> str:
    return ", ".join(dict.fromkeys(name.split(".")[0] for name in names)) or "nothing"
