"""Detectron2's checkpointer, made strict, safe, and able to read the official files."""

import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlparse

import numpy as np
from torch import Tensor, nn

from lvt_d2.checkpoint.official import KINDS, convert_official, find_state_dict, is_official
from lvt_d2.checkpoint.safe_load import read_checkpoint, read_pickle
from lvt_d2.checkpoint.saving import AtomicCheckpointer
from lvt_d2.errors import CheckpointError, CheckpointFileNotFoundError

logger = logging.getLogger(__name__)

_LVT_MARK = "stages.0.patch_embed.proj.weight"  # its prefix tells where a model has its LVT
_CLASSIFIER = {"cls_token", "class_blocks", "norm", "head", "aux_head"}  # beside the LVT


class LVTCheckpointer(AtomicCheckpointer):
    """``DetectionCheckpointer`` that tells what it can't load instead of training on without it.

    ``load`` takes checkpoints of this project, those of timm's trainers, official files as they
    were published, their conversions by ``tools/convert_official.py``, bare state dicts, and
    Detectron's ``.pkl`` files.

    * Files are read without running what is pickled in them.
    * The weights must fit: a missing, unexpected or differently shaped entry is an error.
      ``path?matching_heuristics=True`` is Detectron2's way to load what fits and skip the rest.
    * ``path?ema=True`` takes the averaged weights of a file that has them beside the others.
    * A file with an LVT alone, or with an ImageNet classifier, initialises the LVT of the model.
      The log says which parts keep their random weights.
    * Resuming takes the last checkpoint that can be read, with a warning if that is not the one
      that ``last_checkpoint`` names.

    Saving is described by `AtomicCheckpointer`; constructor arguments are those of
    ``DetectionCheckpointer``, and ``averaged``.

    Args:
        averaged: put the averaged weights (``train.ema``) of files that have them into the model.

    Attributes:
        resumed_from: path of the checkpoint that `resume_or_load` went on from, if it did.
    """

    _prepared: dict[str, Any] | None = None  # content of the file that is being loaded
    _is_partial = False  # whether that initialises the LVT only

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        averaged: bool = False,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.averaged = averaged
        self.resumed_from: str | None = None

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a file into the model, and what it has for them into the checkpointables.

        Args:
            path: file or URL, optionally with ``?matching_heuristics=True``, ``?ema=True``, or both
                joined by ``&``; empty loads nothing.
            checkpointables: names of those to load; None loads all that the file has.

        Returns:
            What the file holds besides.

        Raises:
            CheckpointFileNotFoundError: there is no such file.
            CheckpointError: the file can't be read safely, or does not fit the model; the model is
                left as it was.
        """
        if not path:
            return super().load(path, checkpointables)
        path, heuristics, ema = _split_query(path)
        content = self._read(self.path_manager.get_local_path(path), ema)
        if heuristics:
            content["matching_heuristics"] = True
        return self._load_content(path, content, checkpointables)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Load the last good checkpoint of the folder if it has any, or the weights of a file.

        Args:
            path: as in `load`, for the model alone; used where nothing is to be resumed.
            resume: look for a checkpoint first, and load the checkpointables too.

        Raises:
            CheckpointError: none of the folder's checkpoints can be read, or as `load` does.
        """
        self.resumed_from = None
        candidates = self.resume_candidates() if resume else []
        for candidate in candidates:
            try:
                content = self._read(candidate)
            except CheckpointError as error:
                logger.warning("Not resumed from %s, but from one before it: %s", candidate, error)
                continue
            if candidate == self.tagged_checkpoint() or self._is_complete(content):
                logger.info("Resuming from %s", candidate)
                extra = self._load_content(candidate, content, None)
                self.resumed_from = candidate
                return extra
        if self.tagged_checkpoint():
            names = _first([os.path.basename(name) for name in candidates])
            raise CheckpointError(
                f"None of the checkpoints of {self.save_dir} can be resumed from ({names}). Leave "
                "out --resume to start anew, or give another train.output_dir"
            )
        return self.load(path, checkpointables=[])

    def _is_complete(self, content: dict[str, Any]) -> bool:
        """Whether a file has all that is to be resumed, not weights alone."""
        return "iteration" in content and all(name in content for name in self.checkpointables)

    def _load_content(
        self, path: str, content: dict[str, Any], checkpointables: list[str] | None
    ) -> dict[str, Any]:
        # All that can fail is done before the parent's `load`, which Detectron2 can't repeat on
        # the same object once it was left by an error.
        if self.averaged and "ema" in content:
            _take_averaged(content, path)
        self._is_partial = False
        if not content.get("matching_heuristics", False):
            self._fit(content, path)
        self._prepared = content
        try:
            return super().load(path, checkpointables)
        finally:
            self._prepared = None

    def _load_file(self, filename: str) -> dict[str, Any]:
        return self._read(filename) if self._prepared is None else self._prepared

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        if self._is_partial:
            incompatible.missing_keys.clear()  # `_fit` has named them, in fewer words
        return incompatible

    def _read(self, filename: str, ema: bool = False) -> dict[str, Any]:
        if not os.path.isfile(filename):
            raise CheckpointFileNotFoundError(
                f"Checkpoint {filename} does not exist. Correct the path (train.init_checkpoint), "
                "or leave it empty to start from random weights."
            )
        if filename.endswith(".pkl"):
            return _read_detectron_pickle(filename)
        content = read_checkpoint(filename)
        if is_official(content):
            try:
                converted = convert_official(content, ema)
            except CheckpointError as error:
                raise CheckpointError(f"Checkpoint {filename} was not loaded. {error}") from error
            logger.info("%s is an official file: %s", filename, KINDS[converted.kind])
            return {"model": converted.model, "lvt_d2": {"kind": converted.kind}}
        if not isinstance(content, Mapping):
            content = {"model": content}
        elif ema and "model" in content and "ema" in content:
            content = dict(content)
            _take_averaged(content, filename)
        elif ema or ("model" not in content and isinstance(content.get("state_dict"), Mapping)):
            content = {"model": _trainers_weights(content, ema, filename)}
        elif "model" not in content:
            content = {"model": dict(content)}
        _check_weights(content["model"], filename)
        return dict(content)

    def _fit(self, checkpoint: dict[str, Any], path: str) -> None:
        """Rename the weights to those of the model, or raise if they don't fit."""
        state = checkpoint["model"]
        if all(name.startswith("module.") for name in state):
            state = {name.removeprefix("module."): value for name, value in state.items()}
        target = self.model.state_dict()
        model_lvt, lvt = _lvt_prefix(target), _lvt_prefix(state)
        kind = _kind(state, lvt)
        if kind and model_lvt is not None and kind != _kind(target, model_lvt):
            self._is_partial = True
            for name in self.checkpointables:  # an optimizer in the file is another model's
                checkpoint.pop(name, None)
            state, unused = _rename_lvt(state, lvt, model_lvt, target)
            others = [name for name in target if not name.startswith(model_lvt)]
            target = {name: v for name, v in target.items() if name.startswith(model_lvt)}
            logger.info(
                "%s initialises %s. Random weights remain in: %s. Not used from the file: %s.",
                path,
                model_lvt.rstrip(".") or "the model",
                _groups(others, model_lvt),
                _groups(unused, lvt),
            )
        misfits = _misfits(state, target)
        if misfits:
            raise CheckpointError(
                f"Checkpoint {path} does not fit {type(self.model).__name__} of {len(target)} "
                f"entries: {misfits}. Use the config (classes, channels, stages) that it was made "
                "with, or append '?matching_heuristics=True' to its path to load what fits."
            )
        checkpoint["model"] = state


def _take_averaged(content: dict[str, Any], path: str) -> None:
    """Put the averaged weights into the model's place."""
    logger.info("Taking the averaged weights of %s", path)
    content["model"] = {
        name.removeprefix("module."): value
        for name, value in content["ema"].items()
        if name.startswith("module.")
    }


def _split_query(path: str) -> tuple[str, bool, bool]:
    """The path without its query, and whether that has matching heuristics and averaged weights."""
    url = urlparse(path)
    query = parse_qs(url.query)
    heuristics = query.pop("matching_heuristics", ["False"]) == ["True"]
    ema = query.pop("ema", ["False"]) == ["True"]
    if query:
        raise CheckpointError(
            f"The path {path} asks for {', '.join(query)}; only ?matching_heuristics=True and "
            "?ema=True are known."
        )
    return url._replace(query="").geturl(), heuristics, ema


def _trainers_weights(content: Mapping[str, Any], ema: bool, filename: str) -> dict[str, Any]:
    """Weights in a checkpoint of timm's layout, which stand beside an optimizer and averages."""
    try:
        key, state = find_state_dict(content, ema)
    except CheckpointError as error:
        raise CheckpointError(f"Checkpoint {filename} was not loaded. {error}") from error
    logger.info("Taking %s of %s", key, filename)
    if not ema and "state_dict_ema" in content:
        logger.info("It holds averaged weights, too: append '?ema=True' to its path for these")
    return state


def _read_detectron_pickle(filename: str) -> dict[str, Any]:
    """Weights of Detectron2's model zoo, or Caffe2's blobs, in ``DetectionCheckpointer``'s form."""
    content = read_pickle(filename)
    if not isinstance(content, dict):
        raise CheckpointError(
            f"Checkpoint {filename} holds a {type(content).__name__}; expected a dict of arrays."
        )
    if "model" not in content or "__author__" not in content:
        blobs = content.get("blobs", content)
        blobs = {name: v for name, v in blobs.items() if not str(name).endswith("_momentum")}
        content = {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}
    _check_weights(content["model"], filename)
    return content


def _check_weights(state: Any, filename: str) -> None:
    if not isinstance(state, Mapping) or not state:
        found = f"{len(state)} entries" if isinstance(state, Mapping) else type(state).__name__
        raise CheckpointError(
            f"Checkpoint {filename} has no weights: its 'model' is {found}; expected a dict of "
            "parameter names and tensors."
        )
    wrong = [str(name) for name, v in state.items() if not isinstance(v, (Tensor, np.ndarray))]
    if wrong:
        raise CheckpointError(
            f"Checkpoint {filename} has no weights, or mixes them with other things: "
            f"{len(wrong)} of {len(state)} entries are not tensors ({_first(wrong)}). Expected a "
            "state dict, bare or under 'model'."
        )


def _lvt_prefix(names: Iterable[str]) -> str | None:
    """What stands before the names of the LVT's parameters; None where there is none."""
    found = [name.removesuffix(_LVT_MARK) for name in names if name.endswith(_LVT_MARK)]
    return found[0] if found else None


def _kind(names: Iterable[str], lvt: str | None) -> str | None:
    """``backbone`` for an LVT alone, a classifier's name for one with heads, None for all else."""
    if lvt is None:
        return None
    others = [name for name in names if not name.startswith(f"{lvt}stages.")]
    if not others:
        return "backbone"
    if all(name.startswith("head.fc.") for name in others):
        return "pooled classifier"
    parts = {name.split(".")[0] for name in others}
    return "classifier" if parts <= _CLASSIFIER and "cls_token" in parts else None


def _rename_lvt(
    state: Mapping[str, Any], lvt: str, model_lvt: str, target: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The LVT's weights under the model's names, and the names of what the model has no use for."""
    stages = {_stage(name, model_lvt) for name in target if name.startswith(model_lvt)}
    renamed, unused = {}, []
    for name, value in state.items():
        if name.startswith(lvt) and _stage(name, lvt) in stages:
            renamed[model_lvt + name.removeprefix(lvt)] = value
        else:
            unused.append(name)
    return renamed, unused


def _stage(name: str, lvt: str) -> str:
    return ".".join(name.removeprefix(lvt).split(".")[:2])


def _misfits(state: Mapping[str, Any], target: Mapping[str, Any]) -> str:
    """What keeps a state dict from fitting another one, in words; empty if nothing does."""
    # The config sets the pixels' mean and deviation; old files of Detectron2 hold anchors.
    configured = ("pixel_mean", "pixel_std")
    missing = [name for name in target if name not in state and name not in configured]
    unexpected = [
        name
        for name in state
        if name not in target and name not in configured and "cell_anchors" not in name
    ]
    shapes = [
        f"{name} is {tuple(state[name].shape)} in the file and {tuple(target[name].shape)} in the "
        "model"
        for name in target
        if name in state and tuple(state[name].shape) != tuple(target[name].shape)
    ]
    return "; ".join(
        f"{len(names)} {what} ({_first(names)})"
        for names, what in (
            (missing, "missing in the file"),
            (unexpected, "unknown to the model"),
            (shapes, "of another shape"),
        )
        if names
    )


def _first(names: list[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _groups(names: list[str], part: str) -> str:
    """The modules that parameters belong to; beside ``part`` one level deeper than elsewhere."""
    root = part.split(".")[0]
    groups = {
        ".".join(name.split(".")[: 2 if part and name.startswith(root) else 1]): None
        for name in names
    }
    return ", ".join(groups) or "nothing"
