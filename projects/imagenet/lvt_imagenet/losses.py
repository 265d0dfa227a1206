"""Soft-target losses of the classifier: plain, and with token labels.

B images, N tokens, K classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_TRUST_DISAGREE = 0.9  # share of the annotator's label in the ground-truth variant,
_TRUST_AGREE = 0.5  # and where it and the ground truth name the same class: LVT's official code

Outputs = tuple[Tensor, Tensor, tuple[int, int, int, int]]


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over rows of the cross entropy with a distribution, a scalar.

    Args:
        logits: (R, K), or any (..., K).
        target: probabilities of the same shape.
    """
    return -(target * F.log_softmax(logits.float(), dim=-1)).sum(-1).mean()


def class_target(target: Tensor) -> Tensor:
    """The label of the whole image (B, K) of a target (B, K) or (B, K, 2 or more)."""
    return target if target.dim() == 2 else target[:, :, 1]


class SoftTargetCrossEntropy(nn.Module):
    """Cross entropy with soft targets, which repeat where there are more rows of logits.

    Shape:
        logits (r*B, K) and target (B, K), or (B, K, 2 or more) of which the label of the whole
        image is taken -> a scalar. Rows i, B + i, 2*B + i... share one target.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        target = class_target(target)
        rows = len(target)
        if target.shape[-1] != logits.shape[-1] or rows == 0 or len(logits) % rows:
            raise ValueError(
                f"logits are {tuple(logits.shape)} and targets {tuple(target.shape)}; the classes "
                "must agree, and the rows of logits be a multiple of those of the targets"
            )
        return soft_cross_entropy(logits, target.repeat(len(logits) // rows, 1))


class TokenLabelCrossEntropy(nn.Module):
    """Loss of the class token and of all other tokens of a model trained with mix-token.

    ``cls_weight * CE(class) + dense_weight * CE(tokens)``. Mix-token has replaced a box of the
    tokens by those of the batch in reverse order, so the target of the class is
    ``lam * t + (1 - lam) * flip(t)`` with ``lam = 1 - area / N``. The model has put the logits of
    tokens back to their own images, so their targets stay.

    Args:
        dense_weight: weight of the tokens (LVT's recipe: 0.5).
        cls_weight: weight of the class token (LVT's recipe: 1).
        ground_truth: blend column 0 of the target into that of the class:
            ``t1 * r + t0 * (1 - r)``, r = 0.9, or 0.5 where both have the same arg-max.

    Shape:
        outputs: class logits (B, K), token logits (B, N, K), and the box (r1, c1, r2, c2) on the
        grid of tokens, rows first; one without area for an unmixed batch. Target (B, K, 2 + N):
        smoothed ground truth, label of the whole crop, labels of tokens, row by row; or (B, K, 2)
        or (B, K), where the label of the image is that of all its tokens. -> a scalar.

    Raises:
        ValueError: shapes of outputs and target disagree.
    """

    def __init__(
        self, dense_weight: float = 0.5, cls_weight: float = 1.0, ground_truth: bool = False
    ):
        super().__init__()
        self.dense_weight = dense_weight
        self.cls_weight = cls_weight
        self.ground_truth = ground_truth

    def forward(self, outputs: Outputs, target: Tensor) -> Tensor:
        logits, token_logits, (r1, c1, r2, c2) = outputs
        B, N, K = token_logits.shape
        if target.shape not in {(B, K), (B, K, 2), (B, K, 2 + N)}:
            raise ValueError(
                f"the model gives {N} tokens of {K} classes for {B} images, the targets are "
                f"{tuple(target.shape)}; expected {(B, K, 2 + N)}, {(B, K, 2)} or {(B, K)}. The "
                "size of token labels must be that of the model's last map (image size / 32)."
            )
        whole = self._blended(target)
        area = max(r2 - r1, 0) * max(c2 - c1, 0)
        if area:
            whole = torch.lerp(whole, whole.flip(0), area / N)
        if target.shape == (B, K, 2 + N):
            dense = target[:, :, 2:].transpose(1, 2)
        else:
            dense = class_target(target)[:, None]
        loss_cls = soft_cross_entropy(logits, whole)
        loss_dense = soft_cross_entropy(token_logits, dense)
        return self.cls_weight * loss_cls + self.dense_weight * loss_dense

    def _blended(self, target: Tensor) -> Tensor:
        if target.dim() == 2 or not self.ground_truth:
            return class_target(target)
        truth, label = target[:, :, 0], target[:, :, 1]
        agree = truth.argmax(1, keepdim=True) == label.argmax(1, keepdim=True)
        trust = torch.where(agree, _TRUST_AGREE, _TRUST_DISAGREE).to(label)
        return label * trust + truth * (1 - trust)

    def extra_repr(self) -> str:
        return (
            f"dense_weight={self.dense_weight}, cls_weight={self.cls_weight}, "
            f"ground_truth={self.ground_truth}"
        )
