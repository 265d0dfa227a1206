"""Configs that come with the package, by path, and the models that they describe."""

from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn

from detectron2.config import LazyConfig, instantiate

__all__ = ["get_checkpoint_url", "get", "get_config_file", "get_config"]

_CONFIGS = Path(__file__).parent / "configs"


def get_config_file(config_path: str) -> str:
    """Path of a built-in config file such as "common/models/panoptic_fpn.py".

    Raises:
        RuntimeError: there is no such config.
    """
    path = _CONFIGS / config_path
    if path.is_file():
        return str(path)
    shipped = sorted(str(p.relative_to(_CONFIGS)) for p in _CONFIGS.rglob("*.py"))
    raise RuntimeError(
        f"{config_path} not available in Model Zoo! d2lite has {', '.join(shipped)}; others are "
        "part of Detectron2: install detectron2"
    )


def get_checkpoint_url(config_path: str) -> str:
    """Where the trained weights of a config are: d2lite has none, so this always raises.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(
        f"Pretrained model for {config_path} is not available! d2lite has no trained models: give "
        "a checkpoint of your own (`train.init_checkpoint`), or install detectron2 for its model "
        "zoo"
    )


def get_config(config_path: str, trained: bool = False) -> DictConfig:
    """Built-in config.

    Args:
        config_path: path such as "common/optim.py".
        trained: point the config at trained weights, which d2lite refuses.

    Raises:
        RuntimeError: there is no such config, or no trained weights for it.
    """
    cfg = LazyConfig.load(get_config_file(config_path))
    if trained:
        cfg.train.init_checkpoint = get_checkpoint_url(config_path)
    return cfg


def get(config_path: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """Model of a built-in config, with random weights unless the config names a checkpoint.

    Args:
        config_path: path such as "common/models/panoptic_fpn.py".
        trained: load trained weights, which d2lite refuses.
        device: device of the model; the CPU by default where there is no GPU.
    """
    from detectron2.checkpoint import DetectionCheckpointer

    cfg = get_config(config_path, trained)
    if device is None and not torch.cuda.is_available():
        device = "cpu"
    model = instantiate(cfg.model)
    if device is not None:
        model = model.to(device)
    if "train" in cfg and "init_checkpoint" in cfg.train:
        DetectionCheckpointer(model).load(cfg.train.init_checkpoint)
    return model
