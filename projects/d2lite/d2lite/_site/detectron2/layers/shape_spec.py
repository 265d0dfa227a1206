"""What is known of a feature map before there is one."""

from dataclasses import dataclass


@dataclass
class ShapeSpec:
    """Shape of a feature map, None where unknown.

    Attributes:
        channels: C.
        height: H.
        width: W.
        stride: pixels of the network's input per pixel of the map.
    """

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
