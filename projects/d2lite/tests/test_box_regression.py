"""Encodings of boxes, and the loss on them."""

import math

import pytest
import torch
from detectron2.layers import ciou_loss, diou_loss
from detectron2.modeling.box_regression import (
    Box2BoxTransform,
    Box2BoxTransformLinear,
    _dense_box_regression_loss,
)
from detectron2.structures import Boxes
from fvcore.nn import giou_loss


def random_boxes(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * 50
    return torch.cat((corner, corner + 5 + torch.rand(n, 2, generator=generator) * 40), dim=1)


@pytest.mark.parametrize(
    "transform",
    [
        Box2BoxTransform(weights=(5.0, 5.0, 10.0, 10.0)),
        Box2BoxTransform(weights=(1, 1, 1, 1)),
        Box2BoxTransformLinear(),
        Box2BoxTransformLinear(normalize_by_size=False),
    ],
)
def test_apply_undoes_get(transform):
    # FCOS can only reach boxes around the centre
    boxes = random_boxes(10)
    targets = boxes + torch.tensor([[-3.0, -1, 2, 4]])
    deltas = transform.get_deltas(boxes, targets)
    torch.testing.assert_close(transform.apply_deltas(deltas, boxes), targets)


def test_rcnn_encoding_in_closed_form():
    source = torch.tensor([[0.0, 0, 10, 20]])
    target = torch.tensor([[5.0, 10, 25, 20]])
    deltas = Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0)).get_deltas(source, target)
    expected = [10 * (15 - 5) / 10, 10 * (15 - 10) / 20, 5 * math.log(2), 5 * math.log(0.5)]
    torch.testing.assert_close(deltas, torch.tensor([expected]))


def test_linear_encoding_in_closed_form():
    source = torch.tensor([[0.0, 0, 10, 20]])
    target = torch.tensor([[1.0, 2, 25, 20]])
    deltas = Box2BoxTransformLinear(normalize_by_size=False).get_deltas(source, target)
    assert deltas.tolist() == [[4, 8, 20, 10]]
    deltas = Box2BoxTransformLinear().get_deltas(source, target)
    torch.testing.assert_close(deltas, torch.tensor([[0.4, 0.4, 2.0, 0.5]]))
    back = Box2BoxTransformLinear().apply_deltas(torch.tensor([[-1.0, 0.4, 2, 0.5]]), source)
    torch.testing.assert_close(back, torch.tensor([[5.0, 2, 25, 20]]))


@pytest.mark.parametrize(
    "transform", [Box2BoxTransform(weights=(1, 1, 1, 1)), Box2BoxTransformLinear()]
)
def test_several_sets_of_deltas_for_each_box(transform):
    boxes = random_boxes(6)
    deltas = torch.randn(6, 12, generator=torch.Generator().manual_seed(3))
    together = transform.apply_deltas(deltas, boxes)
    for k in range(3):
        part = slice(4 * k, 4 * k + 4)
        assert torch.equal(together[:, part], transform.apply_deltas(deltas[:, part], boxes))
    assert transform.apply_deltas(deltas[:0], boxes[:0]).shape == (0, 12)


def test_scale_is_clamped_above_only():
    box = torch.tensor([[0.0, 0, 16, 16]])
    transform = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))
    grown = transform.apply_deltas(torch.tensor([[0.0, 0, 100, -100]]), box)[0]
    assert grown[2] - grown[0] == pytest.approx(1000, rel=1e-5)
    assert grown[3] - grown[1] == pytest.approx(0, abs=1e-6)
    tight = Box2BoxTransform((1.0, 1.0, 1.0, 1.0), scale_clamp=0.0)
    assert torch.equal(tight.apply_deltas(torch.tensor([[0.0, 0, 5, 5]]), box), box)


def test_half_precision_is_decoded_in_full():
    boxes = Box2BoxTransform(weights=(1, 1, 1, 1)).apply_deltas(
        torch.zeros(2, 4, dtype=torch.float16), random_boxes(2).half()
    )
    assert boxes.dtype == torch.float32


def test_invalid_source_boxes():
    with pytest.raises(AssertionError, match="not valid"):
        Box2BoxTransform(weights=(1, 1, 1, 1)).get_deltas(
            torch.tensor([[5.0, 0, 5, 9]]), torch.tensor([[0.0, 0, 9, 9]])
        )


def test_traced_transform_takes_other_sizes():
    def decode(deltas, boxes):
        return Box2BoxTransform(weights=(1, 1, 1, 1)).apply_deltas(deltas, boxes)

    traced = torch.jit.trace(decode, (torch.zeros(3, 8), random_boxes(3)))
    for n in (1, 5, 0):
        deltas = torch.randn(n, 8)
        assert torch.equal(traced(deltas, random_boxes(n)), decode(deltas, random_boxes(n)))


class Decoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.transform = Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))

    def forward(self, deltas, boxes):
        return self.transform.apply_deltas(deltas, boxes)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_scripted_module_may_hold_it():
    deltas, boxes = torch.randn(4, 4), random_boxes(4)
    assert torch.equal(torch.jit.script(Decoder())(deltas, boxes), Decoder()(deltas, boxes))


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_smooth_l1_in_closed_form(beta):
    transform = Box2BoxTransform(weights=(1, 1, 1, 1))
    anchors = [Boxes(random_boxes(4)), Boxes(random_boxes(3, seed=1))]
    gt = [random_boxes(7, seed=2), random_boxes(7, seed=3)]
    predictions = [torch.randn(2, 4, 4), torch.randn(2, 3, 4)]
    mask = torch.rand(2, 7) > 0.4
    loss = _dense_box_regression_loss(
        anchors, transform, predictions, gt, mask, smooth_l1_beta=beta
    )
    expected = 0.0
    for n in range(2):
        flat = torch.cat((anchors[0].tensor, anchors[1].tensor))
        deltas = transform.get_deltas(flat, gt[n])
        difference = (torch.cat([p[n] for p in predictions]) - deltas)[mask[n]].abs().double()
        if beta:
            difference = torch.where(
                difference < beta, 0.5 * difference**2 / beta, difference - 0.5 * beta
            )
        expected += difference.sum().item()
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "kind, function", [("giou", giou_loss), ("diou", diou_loss), ("ciou", ciou_loss)]
)
@pytest.mark.parametrize("transform", [Box2BoxTransform((1, 1, 1, 1)), Box2BoxTransformLinear()])
def test_iou_losses_are_on_boxes(kind, function, transform):
    anchors, gt = random_boxes(5), random_boxes(5, seed=1)
    deltas = (torch.rand(1, 5, 4) * 0.5).requires_grad_()
    mask = torch.tensor([[True, False, True, True, False]])
    loss = _dense_box_regression_loss(
        [anchors], transform, [deltas], [gt], mask, box_reg_loss_type=kind
    )
    boxes = transform.apply_deltas(deltas[0], anchors)
    expected = function(boxes[mask[0]], gt[mask[0]], reduction="sum")
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert (deltas.grad[0, 1] == 0).all()


@pytest.mark.parametrize("kind", ["smooth_l1", "giou", "diou", "ciou"])
def test_no_foreground_gives_zero(kind):
    loss = _dense_box_regression_loss(
        [random_boxes(3)],
        Box2BoxTransform((1, 1, 1, 1)),
        [torch.randn(1, 3, 4, requires_grad=True)],
        [random_boxes(3)],
        torch.zeros(1, 3, dtype=torch.bool),
        box_reg_loss_type=kind,
    )
    assert loss.item() == 0
    loss.backward()


def test_unknown_loss():
    with pytest.raises(ValueError, match="'iou'"):
        _dense_box_regression_loss(
            [random_boxes(1)],
            Box2BoxTransform((1, 1, 1, 1)),
            [torch.zeros(1, 1, 4)],
            [random_boxes(1)],
            ...,
            box_reg_loss_type="iou",
        )
