"""The contract of a feature extractor."""

from abc import ABCMeta, abstractmethod

from torch import nn

from detectron2.layers import ShapeSpec


class Backbone(nn.Module, metaclass=ABCMeta):
    """Base of all backbones: maps images to a dictionary of named feature maps.

    Subclasses set ``_out_features`` (names), ``_out_feature_channels`` and
    ``_out_feature_strides`` (by name), or override `output_shape`.
    """

    @abstractmethod
    def forward(self, x):
        """Return ``{name: feature map}`` of a batch of images (B, C, H, W)."""

    @property
    def size_divisibility(self) -> int:
        """What the input's height and width must be divisible by, in pixels; 0 for anything."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Further rules of padding: ``size_divisibility`` and ``square_size``, in pixels."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every output, by name."""
        channels, strides = self._out_feature_channels, self._out_feature_strides
        return {f: ShapeSpec(channels=channels[f], stride=strides[f]) for f in self._out_features}
