"""Weights of classifiers: read from any of our files, put into a model."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lvt_d2.checkpoint import convert_official, is_official, read_checkpoint
from lvt_d2.errors import CheckpointError
from lvt_imagenet.data import some

logger = logging.getLogger(__name__)

_LEAVE_OUT = "leave out the option that asks for them"


@dataclass
class Weights:
    """What a checkpoint says of a classifier.

    Attributes:
        path: the file.
        state: names and tensors.
        classes: names in order; empty where the file does not say.
        settings: of the training, or parts of them; empty where the file does not say.
        averaged: whether the weights are an average over training.
    """

    path: str
    state: dict[str, Tensor]
    classes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    averaged: bool = False

    @property
    def num_classes(self) -> int | None:
        """Rows of the classifier; None where it has none of the usual names."""
        names = ("head.weight", "head.fc.weight", "fc.weight", "classifier.weight")
        heads = [self.state[name] for name in names if name in self.state]
        return len(heads[0]) if heads else None


def read_weights(path: str, averaged: bool = False) -> Weights:
    """Weights of a file of train.py, of an official one, of timm, or a bare state dict.

    Nothing that is pickled in the file is executed.

    Args:
        path: the file.
        averaged: take the averaged weights (EMA).

    Raises:
        CheckpointFileNotFoundError: there is no such file.
        CheckpointError: it can't be read, holds no weights, or no averaged ones.
    """
    content = read_checkpoint(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"Checkpoint {path} holds a {type(content).__name__}; expected a dict of weights"
        )
    published = content
    if averaged and content.get("state_dict_ema"):  # a file may have these alone
        published = {"state_dict": content["state_dict_ema"]}
    if is_official(published):
        if averaged and published is content:
            raise CheckpointError(f"Checkpoint {path} has no averaged weights; {_LEAVE_OUT}")
        converted = convert_official(published)
        if converted.kind not in ("classifier", "backbone"):
            raise CheckpointError(
                f"Checkpoint {path} is the official one of {converted.kind}; expected a classifier "
                "or a backbone"
            )
        state = converted.model
        if converted.kind == "backbone":
            state = {f"backbone.{name}": tensor for name, tensor in state.items()}
        return Weights(path, state, settings={"model": "lvt_cls"}, averaged=averaged)
    keys = ("ema", "state_dict_ema", "model_ema") if averaged else ("model", "state_dict")
    state = next((content[key] for key in keys if content.get(key)), None)
    if state is None and averaged:
        raise CheckpointError(
            f"Checkpoint {path} has no averaged weights, only {some(list(content))}; {_LEAVE_OUT}"
        )
    state = content if state is None else state
    wrong = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if wrong or not state:
        raise CheckpointError(
            f"Checkpoint {path} has no weights: {len(wrong)} of {len(state)} entries are no "
            f"tensors ({some(wrong)}); expected a state dict, bare or under 'model'"
        )
    settings = content.get("settings")
    return Weights(
        path,
        {name.removeprefix("module."): value for name, value in state.items()},
        list(content.get("classes") or ()),
        settings if isinstance(settings, dict) else {},
        averaged,
    )


def load_weights(model: nn.Module, weights: Weights) -> None:
    """Load all weights, strictly.

    Raises:
        CheckpointError: they are another model's.
    """
    misfits = _misfits(weights.state, model.state_dict())
    if misfits:
        raise CheckpointError(
            f"Checkpoint {weights.path} does not fit this {type(model).__name__}: {misfits}. Name "
            "the model and the number of classes that it was made with"
        )
    model.load_state_dict(weights.state)


def start_from(model: nn.Module, weights: Weights, classes: Sequence[str]) -> None:
    """Load weights to start a training from; heads for other classes stay random.

    Heads are kept where the file has the same classes, in number and, where it names them, in
    name. Everything else must fit.

    Raises:
        CheckpointError: the weights are another model's.
    """
    own = model.state_dict()
    heads = [name for name in own if name.startswith(_head_names(model))]
    differ = bool(weights.classes) and bool(classes) and weights.classes != list(classes)
    anew = [
        name
        for name in heads
        if differ or name not in weights.state or weights.state[name].shape != own[name].shape
    ]
    extra = [name for name in weights.state if name not in own and _is_head(name)]
    state = {name: value for name, value in weights.state.items() if name not in {*anew, *extra}}
    needed = {name: value for name, value in own.items() if name not in anew}
    behind = [name for name in needed if not name.startswith("backbone.") and name not in state]
    if _is_backbone(state):  # an LVT alone starts a classifier
        needed = {name: value for name, value in needed.items() if name not in behind}
        anew = [*anew, *behind]
    misfits = _misfits(state, needed)
    if misfits:
        raise CheckpointError(
            f"Checkpoint {weights.path} can't start this {type(model).__name__}: {misfits}. Name "
            "the model that it was made with"
        )
    model.load_state_dict(own | state)
    logger.info(
        "Started from %s: %d of %d entries; random weights remain in: %s",
        weights.path,
        len(state),
        len(own),
        some(sorted({name.split(".")[0] for name in anew})) or "nothing",
    )


def _head_names(model: nn.Module) -> tuple[str, ...]:
    """What the names of the classifier's parameters begin with."""
    config = getattr(model, "pretrained_cfg", None) or {}
    names = config.get("classifier") or ()
    names = (names,) if isinstance(names, str) else tuple(names)
    found = {*names, *(name for name in ("head", "aux_head") if hasattr(model, name))}
    return tuple(f"{name}." for name in found)


def _is_head(name: str) -> bool:
    return name.startswith(("head.", "aux_head.", "fc.", "classifier."))


def _is_backbone(state: Mapping[str, Tensor]) -> bool:
    return bool(state) and all(name.startswith("backbone.stages.") for name in state)


def _misfits(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> str:
    """What keeps a state dict from fitting another one, in words; empty if nothing does."""
    shapes = [
        f"{name} is {tuple(state[name].shape)} there and {tuple(target[name].shape)} here"
        for name in target
        if name in state and state[name].shape != target[name].shape
    ]
    problems = (
        ([name for name in target if name not in state], "missing in the file"),
        ([name for name in state if name not in target], "unknown to the model"),
        (shapes, "of another shape"),
    )
    return "; ".join(f"{len(names)} {what} ({some(names, 3)})" for names, what in problems if names)
