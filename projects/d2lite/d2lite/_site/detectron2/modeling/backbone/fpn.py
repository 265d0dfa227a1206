"""Feature pyramid network (https://arxiv.org/abs/1612.03144)."""

import math
from functools import partial

from fvcore.nn.weight_init import c2_xavier_fill
from torch import nn

from detectron2.layers import Conv2d, get_norm, interpolate

from .backbone import Backbone


class FPN(Backbone):
    """Pyramid of equally wide maps on top of a backbone; outputs are ``p<log2 of the stride>``.

    Args:
        bottom_up: backbone below; gives at least ``in_features``.
        in_features: names of its maps to use, from fine to coarse; each stride twice the last.
        out_channels: channels of every output.
        norm: normalisation of the lateral and output convolutions (see `get_norm`).
        top_block: makes coarser levels from the map named by its ``in_feature``, which may
            belong to the bottom-up network or to the pyramid, and has ``num_levels``.
        fuse_type: ``"sum"`` or ``"avg"`` of the lateral and the top-down map.
        square_pad: side, in pixels, of the square that inputs must be padded to; 0 for none.

    Shape:
        (B, 3, H, W) -> {name: (B, out_channels, H / stride, W / stride)}.
    """

    def __init__(
        self,
        bottom_up,
        in_features,
        out_channels,
        norm="",
        top_block=None,
        fuse_type="sum",
        square_pad=0,
    ):
        super().__init__()
        assert isinstance(bottom_up, Backbone), f"bottom_up is no Backbone but {type(bottom_up)}"
        assert in_features, "in_features of FPN is empty: name at least one map of the backbone"
        assert fuse_type in {"avg", "sum"}, f"fuse_type must be 'avg' or 'sum', not {fuse_type!r}"
        shapes = bottom_up.output_shape()
        strides = [shapes[f].stride for f in in_features]
        doubling = [strides[0] * 2**i for i in range(len(strides))]
        assert strides == doubling, f"Strides {strides} are not log2 contiguous"
        levels = [int(math.log2(stride)) for stride in strides]

        # Plain lists: in a ModuleList these weights would appear a second time in the state dict.
        # Coarsest first, the order in which `forward` goes.
        self.lateral_convs, self.output_convs = [], []
        conv = partial(Conv2d, out_channels=out_channels, bias=norm == "")
        for level, name in zip(levels, in_features, strict=True):
            channels = shapes[name].channels
            lateral = conv(channels, kernel_size=1, norm=get_norm(norm, out_channels))
            output = conv(out_channels, kernel_size=3, padding=1, norm=get_norm(norm, out_channels))
            self.lateral_convs.insert(0, lateral)
            self.output_convs.insert(0, output)
            for kind, layer in (("lateral", lateral), ("output", output)):
                c2_xavier_fill(layer)
                self.add_module(f"fpn_{kind}{level}", layer)

        self.top_block, self.in_features, self.bottom_up = top_block, tuple(in_features), bottom_up
        if top_block is not None:
            levels += range(levels[-1] + 1, levels[-1] + 1 + top_block.num_levels)
        self._out_feature_strides = {f"p{level}": 2**level for level in levels}
        self._out_features = list(self._out_feature_strides)
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        self._size_divisibility, self._square_pad = strides[-1], square_pad
        self._fuse_type = fuse_type

    @property
    def size_divisibility(self):
        return self._size_divisibility

    @property
    def padding_constraints(self):
        return {"square_size": self._square_pad}

    def forward(self, x):
        """Return the pyramid as ``{name: map}``, finest level first."""
        features = self.bottom_up(x)
        results, top_down = [], None
        convs = zip(reversed(self.in_features), self.lateral_convs, self.output_convs, strict=True)
        for name, lateral, output in convs:
            merged = lateral(features[name])
            if top_down is not None:
                merged = merged + interpolate(top_down, scale_factor=2.0, mode="nearest")
                if self._fuse_type == "avg":
                    merged = merged / 2
            top_down = merged
            results.insert(0, output(merged))
        if self.top_block is not None:
            below = dict(zip(self._out_features, results, strict=False)) | features
            results.extend(self.top_block(below[self.top_block.in_feature]))
        return dict(zip(self._out_features, results, strict=True))


class LastLevelMaxPool(nn.Module):
    """Coarser level by taking every second pixel of ``p5``: the P6 of Faster R-CNN."""

    def __init__(self):
        super().__init__()
        self.num_levels, self.in_feature = 1, "p5"

    def forward(self, x):
        return [nn.functional.max_pool2d(x, kernel_size=1, stride=2, padding=0)]


class LastLevelP6P7(nn.Module):
    """The P6 and P7 of RetinaNet: two convolutions of stride 2 on ``in_feature``."""

    def __init__(self, in_channels, out_channels, in_feature="res5"):
        super().__init__()
        self.num_levels, self.in_feature = 2, in_feature
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, 2, 1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, 2, 1)
        for conv in (self.p6, self.p7):
            c2_xavier_fill(conv)

    def forward(self, c5):
        p6 = self.p6(c5)
        return [p6, self.p7(p6.relu())]
