"""What all models do with their input: normalise images, and put them into one batch."""

import torch
from torch import nn

from detectron2.layers import move_device_like
from detectron2.structures import ImageList, Instances

from .._options import options
from ..backbone import Backbone, build_backbone


class ImageModel(nn.Module):
    """Base of the models: a backbone and the statistics of the pixels.

    Args:
        backbone: its padding rules decide how images are batched.
        pixel_mean: of every channel, in the range of the images.
        pixel_std: likewise.
    """

    def __init__(self, backbone: Backbone, pixel_mean, pixel_std):
        super().__init__()
        self.backbone = backbone
        # Not saved: they belong to the config
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        assert self.pixel_mean.shape == self.pixel_std.shape, "mean and std have different shapes!"

    @classmethod
    def from_config(cls, cfg):
        return {"backbone": build_backbone(cfg), **options(cfg.MODEL, "PIXEL_MEAN PIXEL_STD")}

    @property
    def device(self):
        """Where the model is, and its inputs go."""
        return self.pixel_mean.device

    def preprocess_image(self, batched_inputs: list[dict[str, torch.Tensor]]) -> ImageList:
        """Normalise and pad the ``image`` (C, H, W) of every input."""
        images = [move_device_like(x["image"], self.pixel_mean) for x in batched_inputs]
        return self._batch([(x - self.pixel_mean) / self.pixel_std for x in images], 0.0)

    def _extract(self, batched_inputs):
        """The batch of all images, and its feature maps."""
        images = self.preprocess_image(batched_inputs)
        return images, self.backbone(images.tensor)

    def _batch(self, images: list[torch.Tensor], pad_value: float) -> ImageList:
        divisor, constraints = self.backbone.size_divisibility, self.backbone.padding_constraints
        return ImageList.from_tensors(images, divisor, pad_value, constraints)

    def _gather_instances(self, batched_inputs) -> list[Instances] | None:
        """Ground truth of all inputs, on the model's device; None if there is none."""
        if "instances" not in batched_inputs[0]:
            return None
        return [x["instances"].to(self.device) for x in batched_inputs]

    def _batch_sem_seg(self, batched_inputs) -> torch.Tensor | None:
        """Semantic labels of all inputs (B, H, W), padded with the ignored one; None if none."""
        if "sem_seg" not in batched_inputs[0]:
            return None
        labels = [move_device_like(x["sem_seg"], self.pixel_mean) for x in batched_inputs]
        return self._batch(labels, self.sem_seg_head.ignore_value).tensor


def output_size(inputs: dict, image_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width that an input asks for, by default those of its image."""
    return inputs.get("height", image_size[0]), inputs.get("width", image_size[1])
