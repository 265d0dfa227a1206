import math

import torch
from detectron2.modeling.box_regression import Box2BoxTransform

from lvt_d2.modeling import SymmetricBox2BoxTransform


def test_clamps_both_sides():
    weights = (10.0, 10.0, 5.0, 5.0)
    boxes = torch.tensor([[0.0, 0.0, 1000.0, 1000.0]])
    deltas = torch.tensor([[0.0, 0.0, -50.0, 50.0, 1.0, -1.0, 0.5, -0.5]])
    ours = SymmetricBox2BoxTransform(weights).apply_deltas(deltas, boxes)
    theirs = Box2BoxTransform(weights).apply_deltas(deltas, boxes)
    torch.testing.assert_close(ours[:, 4:], theirs[:, 4:])  # small deltas are left alone
    width, height = ours[0, 2] - ours[0, 0], ours[0, 3] - ours[0, 1]
    torch.testing.assert_close(width, torch.tensor(1000 * 16 / 1000))
    torch.testing.assert_close(height, torch.tensor(1000 * 1000 / 16))
    assert theirs[0, 2] - theirs[0, 0] < 1000 * math.exp(-9)


def test_no_boxes():
    transform = SymmetricBox2BoxTransform((1.0, 1.0, 1.0, 1.0))
    assert transform.apply_deltas(torch.zeros(0, 8), torch.zeros(0, 4)).shape == (0, 8)
