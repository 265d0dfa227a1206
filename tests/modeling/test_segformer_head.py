import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.engine import launch as run_processes
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_sem_seg_head
from detectron2.utils import comm
from torch import nn

from lvt_d2.layers import sync_batch_norm
from lvt_d2.modeling import SegFormerHead

CHANNELS = (4, 6, 8, 10)
SHAPES = {
    f"res{i + 2}": ShapeSpec(channels=channels, stride=4 * 2**i)
    for i, channels in enumerate(CHANNELS)
}


def make_head(**arguments) -> SegFormerHead:
    """A small head in float64 whose biases and statistics are not the initial ones."""
    torch.manual_seed(0)
    arguments = {"num_classes": 5, "conv_dims": 12} | arguments
    head = SegFormerHead(input_shape=SHAPES, **arguments).double()
    for tensor in head.state_dict().values():
        if tensor.ndim == 1:
            nn.init.uniform_(tensor, 0.5, 1.5)
    return head


def make_features(height: int = 64, width: int = 96, batch: int = 2) -> dict[str, torch.Tensor]:
    """Maps as LVT has them, sides rounded up; channels-last in memory."""
    torch.manual_seed(1)
    features = {}
    for name, shape in SHAPES.items():
        size = (-(-side // shape.stride) for side in (height, width))
        x = torch.randn(batch, *size, shape.channels, dtype=torch.float64)
        features[name] = x.permute(0, 3, 1, 2)
    return features


def as_written_down(head: SegFormerHead, features: dict[str, torch.Tensor]) -> torch.Tensor:
    """Linear layers by pixel, resizing, concatenation 4, 3, 2, 1, fusion: step by step."""
    levels = []
    for level, name in reversed(list(enumerate(SHAPES, start=1))):
        x = features[name]
        tokens = getattr(head, f"linear_c{level}").proj(x.flatten(2).transpose(1, 2))
        x = tokens.transpose(1, 2).reshape(len(x), -1, *x.shape[2:])
        size = features["res2"].shape[2:]
        levels.append(F.interpolate(x, size=size, mode="bilinear", align_corners=False))
    x = head.dropout(head.linear_fuse(torch.cat(levels, dim=1)))
    return head.linear_pred(x)


@pytest.mark.parametrize("norm", ["BN", "", None, nn.InstanceNorm2d])
@pytest.mark.parametrize("size", [(64, 96), (65, 33), (32, 32), (97, 160)])
def test_same_as_step_by_step(norm, size):
    head = make_head(norm=norm).eval()
    features = make_features(*size)
    torch.testing.assert_close(head.layers(features), as_written_down(head, features))


def test_same_gradients_and_statistics_as_step_by_step():
    results = []
    for function in (SegFormerHead.layers, as_written_down):
        head = make_head(dropout=0.0).train()
        features = {name: x.requires_grad_() for name, x in make_features().items()}
        function(head, features).square().sum().backward()
        gradients = {name: p.grad for name, p in head.named_parameters()}
        statistics = {name: b for name, b in head.named_buffers() if "running" in name}
        results.append(gradients | statistics | {name: x.grad for name, x in features.items()})
    torch.testing.assert_close(*results)


def test_every_parameter_gets_a_gradient_and_order_of_features_does_not_matter():
    head = make_head().train()
    features = make_features()
    targets = torch.randint(0, 5, (2, 64, 96))
    none, losses = head(dict(reversed(features.items())), targets)
    assert none is None and losses.keys() == {"loss_sem_seg"}
    losses["loss_sem_seg"].backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad.isfinite().all(), name
        # A bias before a BatchNorm of the batch cancels out.
        assert parameter.grad.abs().max() > 0 or name.endswith("proj.bias"), name
    shuffled = SegFormerHead(input_shape=dict(reversed(SHAPES.items())), num_classes=5)
    assert shuffled.in_features == list(SHAPES) and shuffled.common_stride == 4


def test_inference_is_at_the_size_of_the_input():
    head = make_head().eval()
    features = make_features(64, 96)
    logits, losses = head(features)
    assert logits.shape == (2, 5, 64, 96) and losses == {}
    expected = F.interpolate(head.layers(features), scale_factor=4.0, mode="bilinear")
    torch.testing.assert_close(logits, expected)
    assert head(make_features(batch=0))[0].shape == (0, 5, 64, 96)


def test_losses():
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 8, 8)
    targets = torch.randint(0, 5, (2, 32, 30))
    targets[:, :9] = 255
    full = F.interpolate(logits, size=(32, 30), mode="bilinear", align_corners=False)
    over_labelled = F.cross_entropy(full, targets, ignore_index=255)
    labelled = (targets != 255).float().mean()
    for arguments, expected in (
        ({}, over_labelled * labelled),
        ({"mean_over_ignored": False}, over_labelled),
        ({"mean_over_ignored": False, "loss_weight": 0.4}, over_labelled * 0.4),
        ({"ignore_value": -1}, None),
    ):
        head = make_head(**arguments)
        if expected is None:
            with pytest.raises(IndexError, match="255 is out of bounds"):
                head.losses(logits, targets)
        else:
            torch.testing.assert_close(head.losses(logits, targets)["loss_sem_seg"], expected)


@pytest.mark.parametrize("over_ignored", [True, False])
def test_all_ignored_is_zero_not_nan(over_ignored):
    head = make_head(mean_over_ignored=over_ignored)
    logits = torch.randn(1, 5, 4, 4, requires_grad=True)
    loss = head.losses(logits, torch.full((1, 16, 16), 255))["loss_sem_seg"]
    loss.backward()
    assert loss.item() == 0 and logits.grad.abs().max() == 0


def test_loss_of_half_precision_is_computed_in_full():
    head = make_head()
    logits = 30 * torch.randn(1, 5, 4, 4)
    targets = torch.randint(0, 5, (1, 16, 16))
    loss = head.losses(logits.bfloat16(), targets)["loss_sem_seg"]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss, head.losses(logits.bfloat16().float(), targets)["loss_sem_seg"]
    )


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ({}, 64 * 12 + 5 * 13),
        ({"num_classes": 7}, 64 * 12 + 7 * 13),
        ({"conv_dims": 8}, 64 * 8 + 5 * 9),
        ({"norm": ""}, 64 * 12 - 12 + 5 * 13),
    ],
)
def test_sizes(arguments, parameters):
    # 28 channels and 4 biases for the levels, 4 squares and 2 vectors of the fusion's width.
    width = arguments.get("conv_dims", 12)
    head = make_head(**arguments)
    assert sum(p.numel() for p in head.parameters()) == parameters + (4 * width - 30) * width


def test_dropout_drops_channels_in_training_only():
    head = make_head(dropout=0.5).train()
    kept = head.dropout(torch.ones(64, 12, 2, 2))
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(kept[:, :, :1, :1].expand_as(kept), kept)
    features = make_features()
    assert not torch.equal(head.layers(features), head.layers(features))
    head.eval()
    assert torch.equal(head.layers(features), head.layers(features))


def test_no_features():
    with pytest.raises(ValueError, match="input_shape is empty"):
        SegFormerHead(input_shape={}, num_classes=5)


def test_unknown_argument():
    with pytest.raises(TypeError, match="align_corners"):
        SegFormerHead(input_shape=SHAPES, num_classes=5, align_corners=True)


def test_yaml_config():
    cfg = get_cfg()
    node = cfg.MODEL.SEM_SEG_HEAD
    node.NAME, node.IN_FEATURES = "SegFormerHead", ["res2", "res4"]
    node.NUM_CLASSES, node.CONVS_DIM, node.NORM = 7, 16, "BN"
    node.LOSS_WEIGHT, node.IGNORE_VALUE = 0.5, 254
    head = build_sem_seg_head(cfg, SHAPES)
    assert isinstance(head, SegFormerHead) and head.in_features == ["res2", "res4"]
    assert head.linear_pred.weight.shape == (7, 16, 1, 1)
    assert isinstance(head.linear_fuse.norm, nn.BatchNorm2d)
    assert (head.loss_weight, head.ignore_value, head.common_stride) == (0.5, 254, 4)


def test_export_and_trace():
    head = make_head().eval()
    features = make_features()

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = head

        def forward(self, features: dict[str, torch.Tensor]):
            return self.head.layers(features)

    expected = head.layers(features)
    exported = torch.export.export(Logits(), (features,)).module()
    torch.testing.assert_close(exported(features), expected)
    traced = torch.jit.trace(Logits(), (features,))
    torch.testing.assert_close(traced(features), expected)


@pytest.mark.parametrize(
    ("processes", "backend", "kind"),
    [
        (1, None, nn.BatchNorm2d),
        (2, "gloo", nn.BatchNorm2d),
        (2, "nccl", nn.SyncBatchNorm),
        (2, "cpu:gloo,cuda:nccl", nn.SyncBatchNorm),
    ],
)
def test_batch_norm_is_synchronised_on_several_gpus(monkeypatch, processes, backend, kind):
    monkeypatch.setattr(comm, "get_world_size", lambda: processes)
    if backend is not None:
        monkeypatch.setattr(torch.distributed, "get_backend", lambda: backend)
    norm = sync_batch_norm()(4)
    assert type(norm) is kind
    assert norm.state_dict().keys() == nn.BatchNorm2d(4).state_dict().keys()


def train_step() -> None:
    head = SegFormerHead(input_shape=SHAPES, num_classes=5, norm=sync_batch_norm()).train()
    features = {name: x.float() for name, x in make_features().items()}
    head(features, torch.zeros(2, 64, 96).long())[1]["loss_sem_seg"].backward()


def test_training_in_two_processes_on_the_cpu():
    run_processes(train_step, 2, dist_url="auto")
