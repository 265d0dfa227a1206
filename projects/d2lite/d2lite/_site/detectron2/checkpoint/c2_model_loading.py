"""Matching of the parameter names of a checkpoint with those of a model."""

import logging
import os
import re

import torch
from tabulate import tabulate

# Caffe2's names -> ours, applied in this order to names whose "_" became "."
_BASIC_RULES = (
    (r"\.b$", ".bias"),
    (r"\.w$", ".weight"),
    (r"[bg]n\.(s|gamma)$", "norm.weight"),
    (r"[bg]n\.(bias|beta)$", "norm.bias"),
    (r"bn\.(rm|running\.mean$)", "norm.running_mean"),
    (r"bn\.(riv|running\.var)$", "norm.running_var"),
    (r"^res\.conv1\.norm\.", "conv1.norm."),
    (r"^conv1\.", "stem.conv1."),  # or it would match "conv1" of a head
    (r"\.branch1\.", ".shortcut."),
    (r"\.branch2a\.", ".conv1."),
    (r"\.branch2b\.", ".conv2."),
    (r"\.branch2c\.", ".conv3."),
)
_DETECTION_RULES = (
    (r"conv\.rpn(\.fpn2)?", "proposal_generator.rpn_head.conv"),
    (r"rpn\.bbox\.pred(\.fpn2)?", "proposal_generator.rpn_head.anchor_deltas"),
    (r"rpn\.cls\.logits(\.fpn2)?", "proposal_generator.rpn_head.objectness_logits"),
    (r"^(bbox|cls)\.(pred|score)", r"\1_\2"),
    (r"^fc6\.", "box_head.fc1."),
    (r"^fc7\.", "box_head.fc2."),
    (r"^head\.conv", "box_head.conv"),
    (r"^fpn\.inner\.res(\d+)\..*?(\.norm)?\.(\w+)$", r"fpn_lateral\1\2.\3"),
    (r"^fpn\.res(\d+)\..*?(\.norm)?\.(\w+)$", r"fpn_output\1\2.\3"),
    (r"(\.\[mask\]|^\.mask)\.fcn", "mask_head.mask_fcn"),
    (r"mask\.fcn\.logits", "mask_head.predictor"),
    (r"conv5\.mask", "mask_head.deconv"),
)


def _substitute(name: str, rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def convert_basic_c2_names(original_keys):
    """Names of Caffe2's classifiers in our spelling, in the order given."""
    special = {"pred_b": "linear_b", "pred_w": "linear_w"}
    return [_substitute(special.get(k, k).replace("_", "."), _BASIC_RULES) for k in original_keys]


def convert_c2_detectron_names(weights):
    """Rename Caffe2's detection weights and put the background class where we have it.

    Returns:
        The renamed weights, and the original name of each.
    """
    logger = logging.getLogger(__name__)
    logger.info("Renaming Caffe2 weights ......")
    originals = sorted(weights)
    renamed = [_substitute(k, _DETECTION_RULES) for k in convert_basic_c2_names(originals)]
    assert len(set(renamed)) == len(renamed), "two Caffe2 names became one"
    result = {}
    for old, new in zip(originals, renamed, strict=True):
        value = weights[old]
        if new.startswith("bbox_pred."):  # class 0 is background there, and nothing here
            value = value[4:]
        elif new.startswith("mask_head.predictor."):
            value = value[1:]
        elif new.startswith("cls_score."):  # background goes last
            value = torch.cat([value[1:], value[:1]])
        if value is not weights[old]:
            logger.info(f"Moved or removed the background class of {new}: {tuple(value.shape)}")
        result[new] = value
    return result, dict(zip(renamed, originals, strict=True))


def _longest_suffix(key: str, known) -> str | None:
    """The longest of the known names that is this one, or a suffix of it after a dot."""
    suffixes = (key.split(".", dots)[-1] for dots in range(key.count(".") + 1))
    return next((suffix for suffix in suffixes if suffix in known), None)


def align_and_update_state_dicts(model_state_dict, ckpt_state_dict, c2_conversion=True):
    """Give the weights of a checkpoint the names that they have in the model.

    Every parameter of the model takes the longest checkpoint key that is a suffix of its name, if
    the shapes agree.

    Args:
        model_state_dict: names and shapes of the model.
        ckpt_state_dict: weights to rename.
        c2_conversion: translate Caffe2's names first.

    Returns:
        Weights under the model's names; those that match nothing keep theirs.

    Raises:
        ValueError: one weight matches several parameters.
    """
    logger = logging.getLogger(__name__)
    originals = {key: key for key in ckpt_state_dict}
    if c2_conversion:
        ckpt_state_dict, originals = convert_c2_detectron_names(ckpt_state_dict)

    taken: dict[str, str] = {}  # checkpoint key -> model key
    for key in sorted(model_state_dict):
        source = _longest_suffix(key, ckpt_state_dict)
        if source is None:
            continue
        shape, found = model_state_dict[key].shape, ckpt_state_dict[source].shape
        if shape != found:
            logger.warning(
                f"Shape of {source} in checkpoint is {found}, while shape of {key} in model is "
                f"{shape}. {source} will not be loaded. Please double check and see if this is "
                "desired."
            )
        elif source in taken:
            logger.error(
                f"Ambiguity found for {source} in checkpoint! It matches at least two keys in the "
                f"model ({key} and {taken[source]})."
            )
            raise ValueError("Cannot match one checkpoint key to multiple keys in the model.")
        else:
            taken[source] = key
    if not taken:
        logger.warning("No weights in checkpoint matched with model.")
        return ckpt_state_dict

    result = {taken.get(source, source): value for source, value in ckpt_state_dict.items()}
    _log_matches(logger, {key: originals[source] for source, key in taken.items()}, result)
    return result


def _log_matches(logger, matches: dict[str, str], weights) -> None:
    prefix = os.path.commonprefix(list(matches)).rpartition(".")[0]
    start = len(prefix) + 1 if prefix else 0
    rows = [(key[start:], old, tuple(weights[key].shape)) for key, old in sorted(matches.items())]
    table = tabulate(rows, headers=["Names in Model", "Names in Checkpoint", "Shapes"])
    logger.info(f"Following weights matched with submodule {prefix or 'model'}:\n{table}")
