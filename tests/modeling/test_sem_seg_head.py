import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec

from lvt_d2.layers import group_norm
from lvt_d2.modeling import PanopticSemSegHead

SHAPES = {f"p{i}": ShapeSpec(channels=8, stride=2**i) for i in range(2, 6)}


def make_head(**arguments) -> PanopticSemSegHead:
    torch.manual_seed(0)
    return PanopticSemSegHead(
        SHAPES, num_classes=5, conv_dims=12, common_stride=4, loss_weight=0.5,
        norm=group_norm(3), ignore_value=255, **arguments,
    )  # fmt: skip


def test_loss_options():
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 8, 8)
    targets = torch.randint(0, 5, (2, 32, 32))
    targets[:, :9] = 255
    small = targets[:, ::4, ::4]
    full = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
    summed = F.cross_entropy(logits, small, ignore_index=255, reduction="sum")
    cases = {
        (True, True): summed / small.numel(),
        (True, False): summed / (small != 255).sum(),
        (False, False): F.cross_entropy(full, targets, ignore_index=255),
    }
    for (at_stride, over_ignored), expected in cases.items():
        head = make_head(loss_at_stride=at_stride, mean_over_ignored=over_ignored)
        loss = head.losses(logits, targets)["loss_sem_seg"]
        torch.testing.assert_close(loss, 0.5 * expected)


@pytest.mark.parametrize("over_ignored", [True, False])
def test_all_ignored_is_zero_not_nan(over_ignored):
    head = make_head(mean_over_ignored=over_ignored)
    targets = torch.full((1, 16, 16), 255)
    assert head.losses(torch.randn(1, 5, 4, 4), targets)["loss_sem_seg"].item() == 0


def test_inference_gives_full_size_logits():
    head = make_head().eval()
    features = {
        name: torch.randn(1, 8, 64 // s.stride, 96 // s.stride) for name, s in SHAPES.items()
    }
    logits, losses = head(features)
    assert logits.shape == (1, 5, 64, 96) and losses == {}
