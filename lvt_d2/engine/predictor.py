"""A trained model applied to images that are in no data set."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from detectron2.data import Metadata, MetadataCatalog, detection_utils, transforms as T
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from lvt_d2.checkpoint import LVTCheckpointer
from lvt_d2.data.reading import unreadable_as_dataset_error
from lvt_d2.engine.build import build
from lvt_d2.engine.launch import check_devices
from lvt_d2.errors import ConfigError, DatasetError

Image = str | os.PathLike | np.ndarray

_FORMATS = ("RGB", "BGR")
_BATCHES_AHEAD = 8  # that are read at once, to find images of equal size among


class Predictor:
    """Detectron2's `DefaultPredictor` for LazyConfigs and many images.

    Images are augmented as by the config's test loader. Only those of equal size then share a
    batch: padding would change what attention and convolutions see, and so the result of an image
    would depend on its neighbours.

    Args:
        model: takes Detectron2's list of dicts; used in evaluation mode, and left in its own.
        augmentations: of test images.
        image_format: channel order that the model takes, ``"RGB"`` or ``"BGR"``.
        batch_size: most images at a time.
        array_format: channel order of arrays; of files it is known.
        metadata: names and colours of the classes.

    Raises:
        ConfigError: a format or the batch size can't be what is meant.
    """

    def __init__(
        self,
        model: nn.Module,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        *,
        batch_size: int = 8,
        array_format: str = "BGR",
        metadata: Metadata | None = None,
    ):
        for name, value in (("image_format", image_format), ("array_format", array_format)):
            if value not in _FORMATS:
                raise ConfigError(f"{name} of a predictor is {value!r}; expected RGB or BGR")
        if batch_size < 1:
            raise ConfigError(f"batch_size of a predictor is {batch_size}; expected 1 or more")
        self.model = model
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format
        self.batch_size = batch_size
        self.array_format = array_format
        self.metadata = Metadata() if metadata is None else metadata

    @classmethod
    def from_config(
        cls, cfg: DictConfig, checkpoint: str = "", *, device: str | None = None, **options
    ) -> "Predictor":
        """Build model and augmentations from a config and load weights.

        Args:
            cfg: as the training tool takes it; read are ``model``, ``dataloader.test`` and
                ``train``. Averaged weights are taken where ``train.ema`` says so.
            checkpoint: file of weights; ``train.init_checkpoint`` if empty.
            device: ``train.device`` if None.
            options: ``batch_size`` and ``array_format`` of the constructor.

        Raises:
            ConfigError: the config lacks a part, or there are no weights.
            CheckpointError: the weights can't be read or don't fit.
        """
        checkpoint = checkpoint or cfg.train.init_checkpoint
        if not checkpoint:
            raise ConfigError("there are no weights to predict with; name a checkpoint")
        device = cfg.train.device if device is None else device
        check_devices(int(device != "cpu"), device)
        loader = _test_loader(cfg)
        ema = cfg.train.get("ema", {})
        model = build(cfg.model, "model").to(device)
        averaged = bool(ema.get("enabled", False) and ema.get("evaluate", True))
        LVTCheckpointer(model, averaged=averaged).load(checkpoint, checkpointables=[])
        return cls(
            model.eval(),
            build(loader.mapper.augmentations, "dataloader.test.mapper.augmentations"),
            _image_format(cfg, loader),
            metadata=_metadata(loader),
            **options,
        )

    def __call__(self, images: Sequence[Image]) -> list[dict]:
        """Predict.

        Args:
            images: paths of files, or arrays (H, W, 3) of uint8.

        Returns:
            The model's output for each image, in their order: ``panoptic_seg``, ``sem_seg``,
            ``instances``, whatever it gives, at the image's own size.

        Raises:
            DatasetError: a file can't be read, or an array has another shape or type.
        """
        return list(self.predict(images))

    def predict(self, images: Sequence[Image]) -> Iterator[dict]:
        """As a call, but yields results while later images are not read yet."""
        if isinstance(images, (str, os.PathLike)):
            raise TypeError("images is a single path; expected a list of images")
        window = _BATCHES_AHEAD * self.batch_size
        for start in range(0, len(images), window):
            part = images[start : start + window]
            inputs = [self._input(image, start + i) for i, image in enumerate(part)]
            yield from self._predict_window(inputs)

    def _predict_window(self, inputs: list[dict]) -> list[dict]:
        places = defaultdict(list)
        for place, item in enumerate(inputs):
            places[item["image"].shape].append(place)
        results: list = [None] * len(inputs)
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                for equal in places.values():
                    for first in range(0, len(equal), self.batch_size):
                        batch = equal[first : first + self.batch_size]
                        outputs = self.model([inputs[place] for place in batch])
                        for place, output in zip(batch, outputs, strict=True):
                            results[place] = output
        finally:
            self.model.train(was_training)
        return results

    def _input(self, image: Image, number: int) -> dict:
        if isinstance(image, np.ndarray):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
                raise DatasetError(
                    f"image {number} is an array of shape {image.shape} and type {image.dtype}; "
                    "expected (height, width, 3) of uint8"
                )
            record = {}
            if self.array_format != self.image_format:
                image = image[:, :, ::-1]
        else:
            record = {"file_name": os.fspath(image)}
            with unreadable_as_dataset_error(f"the image {image}"):
                image = detection_utils.read_image(image, format=self.image_format)
        height, width = image.shape[:2]
        augmented = T.AugInput(np.ascontiguousarray(image))
        self.augmentations(augmented)
        pixels = torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        return {**record, "image": pixels, "height": height, "width": width}


def _test_loader(cfg: DictConfig) -> DictConfig:
    """The first test loader, with a mapper that has augmentations."""
    loader = OmegaConf.select(cfg, "dataloader.test")
    if isinstance(loader, ListConfig):
        loader = loader[0]
    if loader is None or "augmentations" not in loader.get("mapper", {}):
        raise ConfigError(
            "the config has no dataloader.test.mapper.augmentations, which say how an image is "
            "prepared for the model; give its test loader a mapper"
        )
    return loader


def _image_format(cfg: DictConfig, loader: DictConfig) -> str:
    found = loader.mapper.get("image_format", None) or cfg.model.get("input_format", None)
    if found is None:
        raise ConfigError(
            "neither dataloader.test.mapper.image_format nor model.input_format says which channel "
            "order the model takes; set one to RGB or BGR"
        )
    return found


def _metadata(loader: DictConfig) -> Metadata:
    names = loader.get("dataset", {}).get("names", None)
    if isinstance(names, ListConfig):
        names = names[0]
    return MetadataCatalog.get(names) if names else Metadata()
