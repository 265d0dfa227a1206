"""Inference from several views against doing each step at full size."""

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, SemanticSegmentor, build_model
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lvt_d2.modeling import LVT, MultiViewSemanticSegmentor, SegFormerHead, semantic_segmentor

MEAN, STD = (110.0, 120.0, 130.0), (50.0, 60.0, 70.0)


class Strided(Backbone):
    """One map at stride 4; what a pixel becomes depends on its neighbours and on its place."""

    def __init__(self, divisor: int = 8):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, kernel_size=7, stride=4, padding=3)
        self._out_features = ["res2"]
        self.divisor = divisor
        self.batches = []

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.batches.append(tuple(x.shape))
        y = self.conv(x)
        return {"res2": y + torch.linspace(0, 1, y.shape[-1], dtype=y.dtype)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"res2": ShapeSpec(channels=6, stride=4)}

    @property
    def size_divisibility(self) -> int:
        return self.divisor


def make_model(kind=MultiViewSemanticSegmentor, num_classes: int = 5, divisor: int = 8, **options):
    torch.manual_seed(0)
    backbone = Strided(divisor)
    head = SegFormerHead(
        input_shape=backbone.output_shape(), num_classes=num_classes, conv_dims=8, dropout=0.0
    )
    nn.init.normal_(head.linear_pred.weight)
    parts = {"backbone": backbone, "sem_seg_head": head, "pixel_mean": MEAN, "pixel_std": STD}
    return kind(**parts, **options).eval()


def make_samples(*sizes: tuple[int, int], wanted: tuple | None = (33, 70)) -> list[dict]:
    torch.manual_seed(1)
    samples = []
    for size in sizes:
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
        samples.append({"image": image})
        if wanted:
            samples[-1] |= {"height": wanted[0], "width": wanted[1]}
    return samples


def run(model, samples: list[dict]) -> list[Tensor]:
    with torch.no_grad():
        return [output["sem_seg"] for output in model(samples)]


def resize(x: Tensor, size) -> Tensor:
    return F.interpolate(x[None], size=tuple(size), mode="bilinear", align_corners=False)[0]


def normalised(sample: dict) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (sample["image"] - mean) / std


def full_size_logits(model, image: Tensor) -> Tensor:
    """Logits of a normalised image at its own size: padded, through the network, cut."""
    height, width = image.shape[1:]
    step = model.backbone.divisor
    padded = F.pad(image, (0, -width % step, 0, -height % step))
    with torch.no_grad():
        logits = model.sem_seg_head(model.backbone(padded[None]))[0][0]
    return logits[:, :height, :width]


def expected_views(model, sample: dict, see=full_size_logits) -> Tensor:
    """Mean of the probabilities of every scale and its mirror image."""
    image, step = normalised(sample), model.backbone.divisor
    total = 0
    count = 0
    for scale in model.scales:
        size = [math.ceil(side * scale / step) * step for side in image.shape[1:]]
        scaled = image if scale == 1 else resize(image, size)
        for mirrored in (False, True)[: 1 + model.flip]:
            logits = see(model, scaled.flip(-1) if mirrored else scaled)
            logits = logits.flip(-1) if mirrored else logits
            wanted = (sample["height"], sample["width"])
            total = total + resize(logits, wanted).softmax(0)
            count += 1
    return total / count


@pytest.mark.parametrize("wanted", [(33, 70), (120, 31), None])
def test_by_default_it_is_detectron2s(wanted):
    samples = make_samples((40, 56), (37, 61), wanted=wanted)
    ours, theirs = make_model(), make_model(SemanticSegmentor)
    for actual, expected in zip(run(ours, samples), run(theirs, samples), strict=True):
        assert torch.equal(actual, expected)
    labelled = [s | {"sem_seg": torch.randint(0, 5, s["image"].shape[1:])} for s in samples]
    losses = [model.train()(labelled)["loss_sem_seg"] for model in (ours, theirs)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("strip_values", [1, 5 * 70 * 7, 2**22])
@pytest.mark.parametrize("wanted", [(33, 70), (120, 31), (400, 9), (37, 61), None])
def test_labels_are_the_best_of_detectron2s_scores(monkeypatch, wanted, strip_values):
    monkeypatch.setattr(semantic_segmentor, "STRIP_VALUES", strip_values)
    samples = make_samples((40, 56), (37, 61), (8, 90), wanted=wanted)
    theirs = run(make_model(SemanticSegmentor), samples)
    for labels, scores in zip(run(make_model(labels_only=True), samples), theirs, strict=True):
        assert labels.dtype == torch.uint8 and labels.shape == scores.shape[1:]
        chosen = scores.gather(0, labels.long()[None])[0]
        torch.testing.assert_close(chosen, scores.max(0).values, rtol=0, atol=1e-4)


def test_labels_of_many_classes():
    samples = make_samples((40, 56))
    (labels,) = run(make_model(labels_only=True, num_classes=257), samples)
    (scores,) = run(make_model(SemanticSegmentor, num_classes=257), samples)
    assert labels.dtype == torch.int32
    assert (labels == scores.argmax(0)).float().mean() > 0.999
    assert run(make_model(labels_only=True, num_classes=256), samples)[0].dtype == torch.uint8


@pytest.mark.parametrize(
    "options",
    [
        {"flip": True},
        {"scales": (0.5, 1.0, 1.7)},
        {"scales": (1.25,)},
        {"scales": (0.01,)},
        {"scales": [0.75, 1.5], "flip": True},
    ],
)
def test_views_are_averaged_as_probabilities(options):
    samples = make_samples((40, 56), (37, 61))
    model = make_model(**options)
    labels = run(make_model(**options, labels_only=True), samples)
    for i, scores in enumerate(run(model, samples)):
        # One image at a time: padding to the batch changes what is seen at the border.
        (alone,) = run(model, [samples[i]])
        if len(model.scales) == 1 and not model.flip:  # one view: logits
            alone = alone.softmax(0)
        expected = expected_views(model, samples[i])
        torch.testing.assert_close(alone, expected, rtol=0, atol=1e-5)
        assert (labels[i] == scores.argmax(0)).float().mean() > 0.999


def windows_by_hand(model, image: Tensor) -> Tensor:
    """Mean of the logits of all windows over a pixel, one window at a time."""
    height, width = image.shape[1:]
    total, count = torch.zeros(5, height, width), torch.zeros(height, width)
    tops, lefts = (
        sorted({min(start, max(side - w, 0)) for start in range(0, side, stride)})
        for side, w, stride in zip((height, width), model.window, model.window_stride, strict=True)
    )
    for top in tops:
        for left in lefts:
            place = (slice(top, top + model.window[0]), slice(left, left + model.window[1]))
            total[:, place[0], place[1]] += full_size_logits(model, image[:, place[0], place[1]])
            count[place] += 1
    return total / count


@pytest.mark.parametrize("strip_values", [5 * 70 * 3, 2**22])
@pytest.mark.parametrize(
    ("window", "stride", "size"),
    [
        (24, 16, (40, 56)),
        ((16, 24), (16, 9), (41, 57)),
        (24, 24, (24, 24)),
        (30, 17, (20, 70)),
        ((90, 20), (1, 20), (33, 47)),
        (64, 64, (40, 56)),
    ],
)
def test_logits_of_windows_are_averaged(monkeypatch, strip_values, window, stride, size):
    monkeypatch.setattr(semantic_segmentor, "STRIP_VALUES", strip_values)
    (sample,) = make_samples(size)
    options = {"window": window, "window_stride": stride}
    model = make_model(**options)
    expected = resize(windows_by_hand(model, normalised(sample)), (33, 70))
    torch.testing.assert_close(run(model, [sample])[0], expected, rtol=0, atol=1e-5)
    labels = run(make_model(**options, labels_only=True), [sample])[0]
    assert (labels == expected.argmax(0)).float().mean() > 0.999


def test_windows_of_mirrored_and_scaled_views():
    (sample,) = make_samples((40, 56))
    model = make_model(window=24, window_stride=20, flip=True, scales=(1.0, 1.5))
    expected = expected_views(model, sample, see=windows_by_hand)
    torch.testing.assert_close(run(model, [sample])[0], expected, rtol=0, atol=1e-5)


def test_windows_come_in_batches():
    samples = make_samples((40, 56), (24, 24))
    results = []
    for size, batches in ((1, [1] * 7), (4, [4, 2, 1]), (50, [6, 1])):
        model = make_model(window=24, window_stride=16, windows_per_batch=size)
        results.append(run(model, samples))
        assert [shape[0] for shape in model.backbone.batches] == batches
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


class LargestArray(TorchDispatchMode):
    """Number of values of the largest floating-point array that an operation returns."""

    def __init__(self):
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for array in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(array, Tensor) and array.is_floating_point():
                self.values = max(self.values, array.numel())
        return result


@pytest.mark.parametrize("options", [{}, {"flip": True}, {"window": 40, "window_stride": 30}])
@pytest.mark.parametrize("wanted", [(400, 500), (48, 64), (200, 20)])
def test_no_map_of_all_classes_at_full_size(monkeypatch, wanted, options):
    monkeypatch.setattr(semantic_segmentor, "STRIP_VALUES", 150_000)
    samples = make_samples((48, 64), wanted=wanted)
    with LargestArray() as largest:
        run(make_model(labels_only=True, num_classes=150, **options), samples)
    assert largest.values <= 150_000 < 150 * 48 * 64 / 3


def test_images_of_a_batch_go_through_the_network_together():
    model = make_model(labels_only=True)
    run(model, make_samples((40, 56), (24, 24)))
    assert model.backbone.batches == [(2, 3, 40, 56)]


@pytest.mark.parametrize("size", [(1, 90), (90, 1), (1, 1), (33, 47)])
@pytest.mark.parametrize(
    "options",
    [{}, {"flip": True, "scales": (0.5, 1.0)}, {"window": 32, "window_stride": 32}],
)
def test_small_and_odd_images_on_lvt(size, options):
    lvt = LVT()
    head = SegFormerHead(input_shape=lvt.output_shape(), num_classes=3, conv_dims=8)
    model = MultiViewSemanticSegmentor(
        backbone=lvt, sem_seg_head=head, pixel_mean=MEAN, pixel_std=STD, labels_only=True, **options
    ).eval()
    (labels,) = run(model, make_samples(size, wanted=size))
    assert labels.shape == size


def test_head_of_detectron2():
    backbone = Strided()
    head = SemSegFPNHead(
        input_shape=backbone.output_shape(), num_classes=5, conv_dims=8, common_stride=4, norm="LN"
    )
    parts = {"backbone": backbone, "sem_seg_head": head, "pixel_mean": MEAN, "pixel_std": STD}
    samples = make_samples((40, 56))
    (scores,) = run(SemanticSegmentor(**parts).eval(), samples)
    (labels,) = run(MultiViewSemanticSegmentor(**parts, labels_only=True).eval(), samples)
    assert (labels == scores.argmax(0)).float().mean() > 0.999


def test_half_precision():
    samples = make_samples((40, 56))
    model = make_model(flip=True)
    (full,) = run(model, samples)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (half,) = run(model, samples)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0, atol=0.1)


def test_yaml_config():
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "MultiViewSemanticSegmentor"
    cfg.MODEL.BACKBONE.NAME = "build_lvt_backbone"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.SEM_SEG_HEAD.NAME = "SegFormerHead"
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    model = build_model(cfg)
    assert type(model) is MultiViewSemanticSegmentor and not model.labels_only
    assert run(model.eval(), make_samples((40, 56)))[0].shape == (54, 33, 70)


class Bare(nn.Module):
    """A head without ``layers``."""

    ignore_value = 255


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": ()}, "expected positive factors, one at least"),
        ({"scales": (1.0, 0.0)}, r"scales is \(1.0, 0.0\)"),
        ({"window": 32}, r"window is \(32, 32\) and window_stride is None; expected both"),
        ({"window_stride": 32}, "expected both or neither"),
        ({"window": 32, "window_stride": 33}, "to leave no gaps, at most the window"),
        ({"window": (32, 16), "window_stride": 20}, "at most the window"),
        ({"window": 0, "window_stride": 1}, "0 pixels; expected a positive number"),
        ({"window": (1, 2, 3), "window_stride": 1}, "or a height and a width"),
        ({"windows_per_batch": 0}, "windows_per_batch is 0; expected 1 or more"),
        ({"sem_seg_head": Bare(), "flip": True}, "sem_seg_head is a Bare, which has no method"),
    ],
)
def test_bad_options(options, message):
    parts = {"backbone": Strided(), "sem_seg_head": make_model().sem_seg_head} | options
    with pytest.raises(ValueError, match=message):
        MultiViewSemanticSegmentor(**parts, pixel_mean=MEAN, pixel_std=STD)


def test_any_head_by_default_and_unknown_options():
    parts = {"backbone": Strided(), "sem_seg_head": Bare(), "pixel_mean": MEAN, "pixel_std": STD}
    MultiViewSemanticSegmentor(**parts)
    with pytest.raises(TypeError, match="mirror"):
        MultiViewSemanticSegmentor(**parts, mirror=True)
