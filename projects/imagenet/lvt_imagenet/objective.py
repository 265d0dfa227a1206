"""What a training minimises: targets of a batch, and the loss of what the model says."""

import argparse
from typing import Any

from timm.data import Mixup
from torch import Tensor, nn
from torch.nn import functional as F

from lvt_imagenet.losses import SoftTargetCrossEntropy, TokenLabelCrossEntropy
from lvt_imagenet.token_labels import TokenLabelTarget


class ClassObjective:
    """Smoothed classes; with mixup or cutmix, images and classes mixed by timm.

    Args:
        settings: see `lvt_imagenet.options`.
        num_classes: K.
    """

    def __init__(self, settings: argparse.Namespace, num_classes: int):
        self.num_classes = num_classes
        self.smoothing = settings.smoothing
        self.loss = SoftTargetCrossEntropy()
        self.mixup = None
        if settings.mixup > 0 or settings.cutmix > 0:
            self.mixup = Mixup(
                mixup_alpha=settings.mixup,
                cutmix_alpha=settings.cutmix,
                prob=settings.mix_prob,
                switch_prob=settings.mix_switch_prob,
                label_smoothing=settings.smoothing,
                num_classes=num_classes,
            )

    def prepare(self, images: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
        """Images and soft targets (B, K) for the batch of a loader."""
        if self.mixup is not None:
            return self.mixup(images, targets)
        truth = F.one_hot(targets, self.num_classes).float()
        return images, truth * (1 - self.smoothing) + self.smoothing / self.num_classes


class TokenObjective:
    """Labels of the image and of its tokens, which lvt_cls mixes by itself.

    Args:
        settings: see `lvt_imagenet.options`.
        num_classes: K.
    """

    def __init__(self, settings: argparse.Namespace, num_classes: int):
        height, width = (settings.img_size * 2)[:2]
        self.target = TokenLabelTarget(
            num_classes,
            (height // 32, width // 32),
            settings.smoothing,
            settings.official_crop_order,
        )
        self.loss = TokenLabelCrossEntropy(
            settings.dense_weight, settings.cls_weight, settings.ground_truth
        )

    def prepare(self, images: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
        """Images and targets (B, K, 2 + N) for the batch of a loader."""
        return images, self.target(targets)


def create_objective(
    settings: argparse.Namespace, num_classes: int
) -> ClassObjective | TokenObjective:
    """The one that the settings ask for."""
    return (TokenObjective if settings.token_labels else ClassObjective)(settings, num_classes)


def seed_mixing(model: nn.Module, seed: int) -> None:
    """Seed what a model draws by itself, where it does."""
    sampler = getattr(model, "box_sampler", None)
    if sampler is not None:
        sampler.seed(seed % 2**32)
