"""Dense scores of classifiers."""

import pytest
import timm
import torch
from lvt_imagenet.token_labels.annotator import DenseAnnotator, dense_logits
from torch import nn

from lvt_d2.errors import ConfigError

K = 12


def _model(name, **options):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=K, **options).eval()


def _images(height=64, width=64):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "options", "size", "cells"),
    [
        ("test_resnet", {}, (64, 96), (2, 3)),
        ("test_byobnet", {}, (64, 64), (2, 2)),
        ("test_efficientnet", {}, (64, 96), (2, 3)),
        ("test_convnext", {}, (64, 96), (2, 3)),
        ("test_nfnet", {}, (64, 64), (2, 2)),
        ("test_vit", {"img_size": 64}, (64, 64), (4, 4)),
        ("test_vit", {"img_size": (64, 96)}, (64, 96), (4, 6)),
        ("test_vit3", {"img_size": 64}, (64, 64), (4, 4)),  # attention pooling
        ("test_maxvit", {"img_size": 64}, (64, 64), (2, 2)),
        ("pvt_v2_b0", {}, (64, 96), (2, 3)),
        ("lvt", {}, (64, 96), (2, 3)),
        ("lvt_cls", {}, (64, 96), (2, 3)),
        ("lvt_cls", {}, (64, 65), (2, 3)),
    ],
)
@torch.no_grad()
def test_forms_of_features(name, options, size, cells):
    logits = dense_logits(_model(name, **options), _images(*size))
    assert logits.shape == (2, *cells, K)
    assert logits.isfinite().all() and (logits.std((1, 2)) > 0).all(), "cells differ"


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "lvt"])
@torch.no_grad()
def test_the_mean_over_cells_is_the_class_of_a_pooled_linear_head(name):
    model, images = _model(name), _images()
    logits = dense_logits(model, images).mean((1, 2))
    torch.testing.assert_close(logits, model(images), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_tokens_of_a_vision_transformer():
    """Each stands for the class token, behind the final norm."""
    model, images = _model("test_vit", img_size=64), _images()
    tokens = model.forward_features(images)
    expected = model.head(tokens[:, model.num_prefix_tokens :])
    torch.testing.assert_close(dense_logits(model, images).flatten(1, 2), expected)


@torch.no_grad()
def test_a_head_for_tokens_is_used():
    model, images = _model("lvt_cls"), _images()
    logits = dense_logits(model, images).flatten(1, 2)
    tokens = model.forward_features(images)
    torch.testing.assert_close(logits, model.aux_head(tokens[:, 1:]))
    torch.testing.assert_close(
        model.head(tokens[:, 0]) + 0.5 * logits.amax(1), model(images), atol=1e-5, rtol=1e-5
    )


class _Fixed(nn.Module):
    """A classifier with given features; the head is the identity."""

    def __init__(self, features, num_features=K, num_classes=K):
        super().__init__()
        self.features, self.num_features, self.num_classes = features, num_features, num_classes

    def forward_features(self, x):
        return self.features

    def forward_head(self, x):
        return x.flatten(1)


@pytest.mark.parametrize("level", [-20.0, 0.0, 15.0])
def test_targets_give_the_best_classes_the_annotators_probabilities(level):
    """A target's softmax is over these scores and 0 for all other classes."""
    logits = 3 * torch.randn(2, K, 3, 3, generator=torch.Generator().manual_seed(0)) + level
    scores, classes = DenseAnnotator(_Fixed(logits))(_images())
    assert scores.shape == classes.shape == (2, 5, 3, 3)
    dense = torch.zeros(2, K, 3, 3).scatter_(1, classes, scores)
    best = dense.softmax(1).gather(1, classes)
    torch.testing.assert_close(best, logits.softmax(1).gather(1, classes), atol=1e-6, rtol=1e-4)
    assert torch.equal(classes[:, 0], logits.argmax(1))


def test_raw_scores():
    logits = torch.randn(1, K, 2, 2)
    scores, classes = DenseAnnotator(_Fixed(logits), raw_scores=True)(_images())
    assert torch.equal(scores, logits.gather(1, classes))


def test_few_classes():
    logits = torch.randn(1, 3, 2, 2) + 7
    scores, classes = DenseAnnotator(_Fixed(logits, 3, 3))(_images())
    assert scores.shape == (1, 3, 2, 2)
    back = torch.zeros(1, 3, 2, 2).scatter_(1, classes, scores)
    torch.testing.assert_close(back.softmax(1), logits.softmax(1))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (nn.Linear(2, 2), "Linear has no forward_features"),
        (_Fixed(torch.zeros(1, K, 2, 2), num_classes=0), "0 classes"),
        (_Fixed([torch.zeros(1, K, 2, 2)]), "gives list"),
        (_Fixed(torch.zeros(1, K)), r"gives \(1, 12\)"),
        (_Fixed(torch.zeros(1, 7, 2, 2)), "not 12 channels"),
        (_Fixed(torch.zeros(1, 7, K)), "7 tokens"),
        (_Fixed(torch.zeros(1, 7, 2, 2), num_features=7), "head gives 7"),
    ],
)
def test_what_can_not_annotate(model, says):
    with pytest.raises(ConfigError, match=says):
        DenseAnnotator(model)(_images())
