"""Opens what is to be validated: a model of any checkpoint, and images with its classes."""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lvt_d2.errors import ConfigError, DatasetError
from lvt_imagenet.data import class_names, open_validation, some
from lvt_imagenet.models import create_model
from lvt_imagenet.onnx_model import OnnxClassifier
from lvt_imagenet.settings import DEFAULTS, read_yaml, valid
from lvt_imagenet.weights import Weights, load_weights, read_weights

FROM_CHECKPOINT = (
    "model", "model_kwargs", "in_chans", "img_size", "crop_pct", "interpolation", "mean", "std",
)  # fmt: skip
"""Settings of the training that also describe how its model is to be used."""


def settings_of(
    checkpoint: str, averaged: bool, data: str | None, given: dict[str, Any]
) -> tuple[argparse.Namespace, Weights | OnnxClassifier]:
    """Settings for a checkpoint, and its content.

    Args:
        checkpoint: a file of weights, or one that ends in ``.onnx``.
        averaged: take the averaged weights.
        data: folder of the data set.
        given: settings of the command line, which go before all others.

    Raises:
        LVTError: the file can't be read, or has no such weights.
    """
    values = read_yaml(DEFAULTS)
    if checkpoint.endswith(".onnx"):
        if averaged:
            raise ConfigError("--ema asks for averaged weights, which an ONNX file does not tell")
        content: Weights | OnnxClassifier = OnnxClassifier(checkpoint)
        values["model"] = "onnx"
        values["in_chans"] = content.channels or values["in_chans"]
        values["img_size"] = content.size or values["img_size"]
    else:
        content = read_weights(checkpoint, averaged)
        told = content.settings
        values |= {
            name: valid(name, told[name], f"{name} in {checkpoint}")
            for name in FROM_CHECKPOINT
            if name in told
        }
    return argparse.Namespace(**(values | given), data=data), content


def open_classifier(
    settings: argparse.Namespace, content: Weights | OnnxClassifier, device: torch.device
) -> tuple[Callable[[Tensor], Tensor], int]:
    """A function from images to logits, and the number of classes.

    Raises:
        LVTError: the weights do not fit the model.
    """
    if isinstance(content, OnnxClassifier):
        height, width = (settings.img_size * 2)[:2]
        if settings.mean is None or settings.std is None:
            settings.mean = settings.mean or [0.485, 0.456, 0.406][: settings.in_chans]
            settings.std = settings.std or [0.229, 0.224, 0.225][: settings.in_chans]
        return content, content(torch.zeros(1, settings.in_chans, height, width)).shape[1]
    num_classes = settings.num_classes or content.num_classes
    if num_classes is None:
        raise ConfigError(
            f"The number of classes of {content.path} can't be told from its names; give "
            "--num-classes, and --model if that is not " + settings.model
        )
    model = create_model(settings, num_classes)
    load_weights(model, content)
    model.to(device).eval()
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)
    return model, num_classes


def open_images(
    settings: argparse.Namespace, content: Weights | OnnxClassifier, num_classes: int
) -> Dataset:
    """The images, with classes numbered as the model does.

    Raises:
        DatasetError: classes of the images and of the model disagree.
    """
    classes = content.classes if isinstance(content, Weights) and not settings.class_map else []
    dataset = open_validation(settings, classes, whole_folder=True)
    names = class_names(dataset)
    known = bool(classes) or settings.class_map is not None or not names
    if len(names) > num_classes or (not known and len(names) != num_classes):
        raise DatasetError(
            f"The images have {len(names)} classes ({some(names)}) and the model {num_classes}, "
            "whose names its file does not tell; so their numbers are unknown. Give --class-map "
            "FILE, with the name of every class of the model, in order"
        )
    return dataset
