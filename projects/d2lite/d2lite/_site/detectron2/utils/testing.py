"""Helpers of tests."""

import os
import tempfile

import torch

from detectron2.config import LazyConfig
from detectron2.structures import Boxes, ROIMasks

__all__ = ["assert_instances_allclose", "random_boxes", "reload_lazy_config"]


def random_boxes(num_boxes: int, max_coord: float = 100, device="cpu") -> torch.Tensor:
    """Random non-empty (num_boxes, 4) boxes, XYXY, within `max_coord` pixels."""
    # At least 1 pixel wide: tiny boxes make box regression unstable.
    boxes = (torch.rand(num_boxes, 4, device=device) * (max_coord * 0.5)).clamp_(min=1.0)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def assert_instances_allclose(
    input, other, *, rtol: float = 1e-5, msg: str = "", size_as_tensor: bool = False
) -> None:
    """Assert that two Instances have the same size and fields with nearly equal values.

    Args:
        input: Instances.
        other: Instances.
        rtol: tolerance, relative to 100 pixels for boxes and to the largest value for tensors.
        msg: start of the error's text.
        size_as_tensor: compare sizes as tensors: those of traced models aren't tuples.
    """
    msg = (msg or "Two Instances are different!").rstrip() + " "
    sizes = input.image_size, other.image_size
    same = torch.equal(*map(torch.as_tensor, sizes)) if size_as_tensor else sizes[0] == sizes[1]
    assert same, f"{msg}image_size is {sizes[0]} vs. {sizes[1]}!"
    names, other_names = sorted(input.get_fields()), sorted(other.get_fields())
    assert names == other_names, f"{msg}Fields are {names} vs {other_names}!"
    for name in names:
        a, b = input.get(name), other.get(name)
        if isinstance(a, (Boxes, ROIMasks)):
            close = torch.allclose(a.tensor, b.tensor, atol=100 * rtol)
        elif not isinstance(a, torch.Tensor):
            raise ValueError(f"Don't know how to compare type {type(a)}")
        elif a.dtype.is_floating_point:
            magnitude = a.abs().max().item() if a.numel() else 0.0
            close = torch.allclose(a, b, atol=magnitude * rtol)
        else:
            close = torch.equal(a, b)
        assert close, f"{msg}Field {name} is different!"


def reload_lazy_config(cfg):
    """Save a config to a file and load it from there."""
    with tempfile.TemporaryDirectory(prefix="detectron2") as folder:
        filename = os.path.join(folder, "d2_cfg_test.yaml")
        LazyConfig.save(cfg, filename)
        return LazyConfig.load(filename)
