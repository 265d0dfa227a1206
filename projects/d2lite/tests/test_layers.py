"""Layers: convolutions, RoIAlign, losses and shape helpers, against slow references."""

import math

import numpy as np
import pytest
import torch
from detectron2 import layers
from detectron2.layers import (
    CNNBlockBase,
    Conv2d,
    DepthwiseSeparableConv2d,
    FrozenBatchNorm2d,
    ROIAlign,
    ShapeSpec,
    cat,
    ciou_loss,
    cross_entropy,
    diou_loss,
    empty_input_loss_func_wrapper,
    get_norm,
    mask_ops,
    move_device_like,
    nonzero_tuple,
    roi_align,
    shapes_to_tensor,
)
from torch import nn
from torch.nn import functional as F

HALF = [torch.float16, torch.bfloat16]


def trained_norm(norm):
    """Numbers in a norm as after training."""
    generator = torch.Generator().manual_seed(0)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return norm


# ------------------------------------------------------------------------------------- wrappers


def test_names_of_torch():
    assert layers.Linear is nn.Linear and layers.BatchNorm2d is nn.BatchNorm2d
    assert layers.ConvTranspose2d is nn.ConvTranspose2d and layers.interpolate is F.interpolate


def test_shape_spec():
    assert ShapeSpec() == ShapeSpec(None, None, None, None) != ShapeSpec(stride=4)
    spec = ShapeSpec(channels=3, height=5, width=6, stride=4)
    assert spec == ShapeSpec(3, 5, 6, 4)
    assert repr(spec) == "ShapeSpec(channels=3, height=5, width=6, stride=4)"


def test_conv_with_norm_and_activation():
    norm = trained_norm(nn.BatchNorm2d(4)).eval()
    conv = Conv2d(2, 4, 3, stride=2, padding=1, bias=False, norm=norm, activation=F.relu)
    x = torch.rand(2, 2, 7, 5)
    expected = F.relu(norm(F.conv2d(x, conv.weight, stride=2, padding=1)))
    assert torch.equal(conv(x), expected)
    assert set(conv.state_dict()) == {"weight", *(f"norm.{k}" for k in norm.state_dict())}
    plain = Conv2d(2, 4, 1)
    assert plain.norm is None and plain.activation is None
    with pytest.raises(TypeError):
        Conv2d(2, 4, 1, normalisation="BN")


@pytest.mark.parametrize("shape", [(0, 2, 7, 5), (0, 2, 1, 1)])
def test_conv_of_nothing(shape):
    conv = Conv2d(2, 4, 3, padding=1, norm=get_norm("BN", 4))
    x = torch.rand(shape, requires_grad=True)
    conv.eval()
    assert conv(x).shape == (0, 4, *shape[2:])
    conv(x).sum().backward()
    assert conv.weight.grad.abs().sum() == 0


def test_sync_batch_norm_refuses_nothing():
    conv = Conv2d(2, 4, 1, norm=nn.SyncBatchNorm(4))
    with pytest.raises(AssertionError, match="SyncBatchNorm does not support empty inputs"):
        conv(torch.rand(0, 2, 3, 3))


def test_conv_scripted_traced_exported():
    conv = Conv2d(2, 4, 3, norm=get_norm("FrozenBN", 4), activation=nn.ReLU()).eval()
    conv.requires_grad_(False)
    x = torch.rand(1, 2, 6, 6)
    assert torch.equal(torch.jit.script(conv)(x), conv(x))
    assert torch.equal(torch.jit.trace(conv, x)(x), conv(x))
    exported = torch.export.export(conv, (x,)).module()
    torch.testing.assert_close(exported(x), conv(x))


def test_cat():
    a, b = torch.rand(2, 3), torch.rand(1, 3)
    assert cat([a]) is a and torch.equal(cat((a, b)), torch.cat([a, b]))
    assert cat([a, a], dim=1).shape == cat([a, a], 1).shape == (2, 6)
    with pytest.raises(AssertionError):
        cat(a)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(reduction):
    logits, target = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    expected = F.cross_entropy(logits, target, reduction=reduction)
    assert torch.equal(cross_entropy(logits, target, reduction=reduction), expected)
    empty = torch.zeros(0, 3, requires_grad=True)
    loss = cross_entropy(empty, target[:0], reduction=reduction)
    assert loss.sum() == 0 and loss.shape == ((0,) if reduction == "none" else ())
    loss.sum().backward()
    assert empty.grad.shape == (0, 3)
    with pytest.raises(TypeError):
        cross_entropy(logits, target, None)


def test_cross_entropy_passes_options_on():
    logits, target = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    weight = torch.tensor([1.0, 2, 3])
    expected = F.cross_entropy(logits, target, weight=weight, ignore_index=1)
    assert torch.equal(cross_entropy(logits, target, weight=weight, ignore_index=1), expected)
    wrapped = empty_input_loss_func_wrapper(F.mse_loss)
    assert wrapped(torch.zeros(0, 2), torch.zeros(0, 2)) == 0


def test_nonzero_tuple():
    for x in (torch.tensor([[0, 1], [2, 0]]), torch.zeros(0, 3), torch.tensor([0, 0])):
        eager, scripted = nonzero_tuple(x), torch.jit.script(nonzero_tuple)(x)
        for a, b, c in zip(eager, scripted, x.nonzero(as_tuple=True), strict=True):
            assert torch.equal(a, c) and torch.equal(b, c)


def test_shapes_to_tensor():
    assert shapes_to_tensor([3, 4]).tolist() == [3, 4]
    assert shapes_to_tensor([3, 4], torch.device("cpu")).device.type == "cpu"
    assert torch.jit.script(shapes_to_tensor)([3, 4]).tolist() == [3, 4]
    traced = torch.jit.trace(lambda x: shapes_to_tensor([x.shape[0], x.shape[1]]), torch.rand(2, 3))
    assert traced(torch.rand(5, 7)).tolist() == [5, 7]


def test_move_device_like():
    x = torch.rand(3)
    assert torch.equal(move_device_like(x, torch.zeros(1)), x)


def test_names_out_of_scope_say_so():
    for module, name in ((layers, "DeformConv"), (mask_ops, "paste_mask_in_image_old")):
        with pytest.raises(AttributeError, match="not part of d2lite"):
            getattr(module, name)


# --------------------------------------------------------------------------------------- blocks


def test_frozen_block():
    class Block(CNNBlockBase):
        def __init__(self):
            super().__init__(3, 4, 2)
            self.conv = Conv2d(3, 4, 1, norm=get_norm("BN", 4))

    block = Block()
    assert (block.in_channels, block.out_channels, block.stride) == (3, 4, 2)
    assert block.freeze() is block
    assert not any(p.requires_grad for p in block.parameters())
    assert isinstance(block.conv.norm, FrozenBatchNorm2d)


def test_depthwise_separable_convolution():
    conv = DepthwiseSeparableConv2d(
        4, 6, 5, padding=4, dilation=2, norm1="BN", activation1=F.relu, activation2=F.gelu
    )
    assert conv.depthwise.bias is None and conv.pointwise.bias is not None
    assert conv.depthwise.weight.shape == (4, 1, 5, 5) and conv.pointwise.norm is None
    x = torch.rand(2, 4, 9, 9)
    inner = F.conv2d(x, conv.depthwise.weight, padding=4, dilation=2, groups=4)
    inner = F.relu(F.batch_norm(inner, None, None, training=True))
    expected = F.gelu(F.conv2d(inner, conv.pointwise.weight, conv.pointwise.bias))
    torch.testing.assert_close(conv(x), expected)
    keys = set(DepthwiseSeparableConv2d(4, 6).state_dict())
    assert keys == {f"{a}.{b}" for a in ("depthwise", "pointwise") for b in ("weight", "bias")}
    with pytest.raises(TypeError):
        DepthwiseSeparableConv2d(4, 6, 3, 1, 1, "BN")


# ------------------------------------------------------------------------------------- RoIAlign


def interpolate_slowly(image, y, x):
    h, w = image.shape
    if y < -1 or y > h or x < -1 or x > w:
        return 0.0
    y, x = max(y, 0), max(x, 0)
    i, j = min(int(y), h - 1), min(int(x), w - 1)
    y, x = (float(i) if i == h - 1 else y), (float(j) if j == w - 1 else x)
    k, m, v, u = min(i + 1, h - 1), min(j + 1, w - 1), y - i, x - j
    top, bottom = (1 - u) * image[i, j] + u * image[i, m], (1 - u) * image[k, j] + u * image[k, m]
    return (1 - v) * top + v * bottom


def roi_align_slowly(image, roi, size, scale, ratio, aligned):
    x0, y0, x1, y1 = np.array(roi) * scale - (0.5 if aligned else 0)
    height, width = y1 - y0, x1 - x0
    if not aligned:
        height, width = max(height, 1), max(width, 1)
    cell = height / size[0], width / size[1]
    count = [ratio if ratio > 0 else math.ceil(side) for side in cell]
    result = np.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            total = 0.0
            for a in range(count[0]):
                for b in range(count[1]):
                    y = y0 + (i + (a + 0.5) / count[0]) * cell[0]
                    x = x0 + (j + (b + 0.5) / count[1]) * cell[1]
                    total += interpolate_slowly(image, y, x)
            result[i, j] = total / max(count[0] * count[1], 1)
    return result


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align(aligned, ratio):
    images = torch.rand(2, 1, 9, 12, generator=torch.Generator().manual_seed(0))
    rois = [[0, 2, 3, 19, 15], [1, 0, 0, 24, 18], [1, -4, 5, 9, 30], [0, 5, 5, 5.5, 5.5]]
    pool = ROIAlign((3, 4), 0.5, ratio, aligned)
    result = pool(images, torch.tensor(rois))
    for roi, got in zip(rois, result[:, 0], strict=True):
        image = images[int(roi[0]), 0].double().numpy()
        expected = roi_align_slowly(image, roi[1:], (3, 4), 0.5, ratio, aligned)
        np.testing.assert_allclose(got.numpy(), expected, atol=1e-5)
    plain = roi_align(images, torch.tensor(rois), (3, 4), 0.5, ratio, aligned)
    assert torch.equal(plain, result)


def test_roi_align_of_nothing_and_wrong_rois():
    pool = ROIAlign((3, 4), 0.5, 0)
    assert pool.aligned
    assert pool(torch.rand(1, 5, 8, 8), torch.zeros(0, 5)).shape == (0, 5, 3, 4)
    assert pool(torch.rand(0, 5, 8, 8), torch.zeros(0, 5)).shape == (0, 5, 3, 4)
    for wrong in (torch.zeros(2, 4), torch.zeros(5)):
        with pytest.raises(AssertionError):
            pool(torch.rand(1, 5, 8, 8), wrong)
    text = "ROIAlign(output_size=(3, 4), spatial_scale=0.5, sampling_ratio=0, aligned=True)"
    assert repr(pool) == text


@pytest.mark.parametrize("dtype", HALF)
def test_roi_align_in_half_precision(dtype):
    x = torch.rand(1, 2, 8, 8).to(dtype).requires_grad_()
    rois = torch.tensor([[0.0, 1, 1, 6, 7]])
    result = ROIAlign(2, 1.0, 2)(x, rois)
    assert result.dtype == dtype
    expected = ROIAlign(2, 1.0, 2)(x.detach().float(), rois)
    torch.testing.assert_close(result.float(), expected, rtol=2e-2, atol=1e-2)
    result.sum().backward()
    assert x.grad.dtype == dtype


# --------------------------------------------------------------------------------------- losses


def box_losses_slowly(a, b):
    """Distance-IoU and complete-IoU loss of two boxes, from the paper's equations."""
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    iou = width * height / (sum(areas) - width * height + 1e-7)
    centers = [((c[0] + c[2]) / 2, (c[1] + c[3]) / 2) for c in (a, b)]
    diagonal = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    diou = 1 - iou + math.dist(*centers) ** 2 / (diagonal + 1e-7)
    ratios = [math.atan((c[2] - c[0]) / (c[3] - c[1])) for c in (a, b)]
    v = 4 / math.pi**2 * (ratios[1] - ratios[0]) ** 2
    return diou, diou + v * v / (1 - iou + v + 1e-7)


def box_pairs(n=20):
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(2, n, 4, generator=generator, dtype=torch.float64) * 10
    boxes[..., 2:] += boxes[..., :2] + 0.5
    boxes[1, 0] = boxes[0, 0]
    return boxes[0], boxes[1]


@pytest.mark.parametrize("which, loss", enumerate([diou_loss, ciou_loss]))
def test_box_losses(which, loss):
    a, b = box_pairs()
    expected = [box_losses_slowly(x, y)[which] for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    result = loss(a, b)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(loss(a, b, reduction="mean"), result.mean())
    torch.testing.assert_close(loss(a, b, reduction="sum"), result.sum())
    assert loss(a[0], b[0]).shape == ()
    with pytest.raises(AssertionError, match="bad box"):
        loss(a[:, [2, 1, 0, 3]], b)
    with pytest.raises(AssertionError, match="bad box"):
        loss(a[:, [0, 3, 2, 1]], b)


@pytest.mark.parametrize("loss", [diou_loss, ciou_loss])
def test_box_losses_of_nothing(loss):
    a = torch.zeros(0, 4, requires_grad=True)
    assert loss(a, a).shape == (0,) and loss(a, a, reduction="sum") == 0
    mean = loss(a, a, reduction="mean")
    assert mean == 0
    mean.backward()
    assert a.grad.shape == (0, 4)


def test_box_loss_gradients():
    a, b = (t[1:6].clone().requires_grad_() for t in box_pairs())
    assert torch.autograd.gradcheck(diou_loss, (a, b))
    # The weight of the aspect ratio is taken as a constant, so numeric gradients differ there.
    ciou_loss(a, b, reduction="sum").backward()
    assert a.grad.isfinite().all() and a.grad.abs().sum() > 0
