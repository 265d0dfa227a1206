"""Anchors: sizes, positions, order."""

import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import ANCHOR_GENERATOR_REGISTRY, build_anchor_generator
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from omegaconf import OmegaConf


def slow_anchors(height, width, stride, sizes, ratios, offset):
    boxes = []
    for row in range(height):
        for column in range(width):
            x, y = (column + offset) * stride, (row + offset) * stride
            for size in sizes:
                for ratio in ratios:
                    w = math.sqrt(size * size / ratio)
                    h = w * ratio
                    boxes.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return torch.tensor(boxes)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_equals_a_slow_loop(offset):
    generator = DefaultAnchorGenerator(
        sizes=[[8, 16], [32]],
        aspect_ratios=[[0.5, 1, 2], [0.25, 1]],
        strides=[4, 8],
        offset=offset,
    )
    assert generator.num_anchors == generator.num_cell_anchors == [6, 2]
    assert generator.box_dim == 4
    maps = [torch.zeros(2, 3, 3, 5), torch.zeros(2, 3, 2, 1)]
    first, second = generator(maps)
    expected = slow_anchors(3, 5, 4, [8, 16], [0.5, 1, 2], offset)
    torch.testing.assert_close(first.tensor, expected)
    expected = slow_anchors(2, 1, 8, [32], [0.25, 1], offset)
    torch.testing.assert_close(second.tensor, expected)


def test_known_numbers():
    anchors = DefaultAnchorGenerator(
        sizes=[32, 64], aspect_ratios=[0.25, 1, 4], strides=[4], offset=0
    )([torch.zeros(1, 1, 1, 2)])[0].tensor
    first = [[-32, -8, 32, 8], [-16, -16, 16, 16], [-8, -32, 8, 32]]
    assert anchors[:3].tolist() == first
    assert anchors[3:6].tolist() == [[2 * v for v in box] for box in first]
    assert torch.equal(anchors[6:], anchors[:6] + torch.tensor([4.0, 0, 4, 0]))


def test_area_and_ratio():
    generator = DefaultAnchorGenerator(sizes=[50], aspect_ratios=[0.3, 3.0], strides=[8])
    boxes = generator.generate_cell_anchors((50,), (0.3, 3.0))
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    torch.testing.assert_close(w * h, torch.full((2,), 2500.0))
    torch.testing.assert_close(h / w, torch.tensor([0.3, 3.0]))
    assert generator.generate_cell_anchors().shape == (15, 4)


def test_stays_out_of_the_state_dict_and_moves_with_the_module():
    generator = DefaultAnchorGenerator(sizes=[[8]], aspect_ratios=[[1]], strides=[4])
    assert not generator.state_dict()
    assert len(list(generator.buffers())) == 1
    assert generator.double().cell_anchors.state_dict() == {}


def test_accepts_lazy_config_lists():
    lists = OmegaConf.create({"sizes": [[8], [16]], "ratios": [0.5, 1.0], "strides": [4, 8]})
    generator = DefaultAnchorGenerator(
        sizes=lists.sizes, aspect_ratios=lists.ratios, strides=lists.strides
    )
    assert generator.num_anchors == [2, 2]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"sizes": 3}, "list"),
        ({"sizes": []}, "empty"),
        ({"sizes": [[8], [8], [8]]}, "length 3"),
        ({"offset": 1.0}, "offset"),
    ],
)
def test_bad_arguments(arguments, message):
    good = {"sizes": [[8]], "aspect_ratios": [[1]], "strides": [4, 8]}
    with pytest.raises(AssertionError, match=message):
        DefaultAnchorGenerator(**(good | arguments))


def test_from_yaml():
    cfg = get_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32, 64]]
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[0.25, 1, 4]]
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = 0.5
    assert "DefaultAnchorGenerator" in ANCHOR_GENERATOR_REGISTRY
    generator = build_anchor_generator(cfg, [ShapeSpec(stride=4), ShapeSpec(stride=8)])
    assert generator.num_anchors == [6, 6]
    assert generator.offset == 0.5
    assert [int(s) for s in generator.strides] == [4, 8]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_scripted_equals_eager():
    generator = DefaultAnchorGenerator(
        sizes=[[8], [16]], aspect_ratios=[[1, 2]], strides=[4, 8], offset=0.5
    )
    maps = [torch.zeros(1, 2, 4, 6), torch.zeros(1, 2, 2, 3)]
    for scripted, eager in zip(torch.jit.script(generator)(maps), generator(maps), strict=True):
        assert torch.equal(scripted.tensor, eager.tensor)
