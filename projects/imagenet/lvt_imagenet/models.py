"""Makes models of timm."""

import argparse
import difflib

import timm
from torch import nn

from lvt_d2.errors import ConfigError

LVT_MODELS = ("lvt_cls", "lvt")


def create_model(settings: argparse.Namespace, num_classes: int) -> nn.Module:
    """The model of the settings, with random weights; fills in the pixels' mean and deviation.

    Raises:
        ConfigError: timm has no such model, or it does not take these arguments.
    """
    if not timm.is_model(settings.model):
        close = difflib.get_close_matches(settings.model, [*LVT_MODELS, *timm.list_models()], n=3)
        meant = f"did you mean {', '.join(close)}?" if close else "see timm.list_models()"
        raise ConfigError(f"There is no model {settings.model!r}; {meant}")
    if settings.token_labels and settings.model != "lvt_cls":
        raise ConfigError(
            f"model is {settings.model!r}, which has no labels of tokens; train lvt_cls, or set "
            "token_labels to none"
        )
    given = {"drop_path_rate": settings.drop_path_rate, "in_chans": settings.in_chans}
    if settings.token_labels:
        given |= {"token_labels": True, "mix_token": settings.mix_token}
    try:
        model = timm.create_model(
            settings.model, num_classes=num_classes, **{**given, **settings.model_kwargs}
        )
        if settings.grad_checkpointing:
            model.set_grad_checkpointing(True)
    except (TypeError, ValueError, RuntimeError, AssertionError, AttributeError) as error:
        raise ConfigError(
            f"{settings.model} can't be made: {' '.join(str(error).split())}; look at "
            "drop_path_rate, in_chans, grad_checkpointing and model_kwargs"
        ) from error
    _check_size(settings)
    _fill_pixels(settings, model)
    return model


def _check_size(settings: argparse.Namespace) -> None:
    if settings.token_labels and any(side % 32 for side in settings.img_size):
        raise ConfigError(
            f"img_size is {settings.img_size}; token labels need multiples of 32, the stride of "
            "the model's tokens"
        )


def _fill_pixels(settings: argparse.Namespace, model: nn.Module) -> None:
    config = getattr(model, "pretrained_cfg", None) or {}
    for name in ("mean", "std"):
        values = getattr(settings, name) or list(config.get(name) or ())
        values = values or [0.5]
        if len(values) != settings.in_chans:
            values = [sum(values) / len(values)] * settings.in_chans
        setattr(settings, name, values)
