"""Matching of boxes to ground truth with a floor under low-quality matches."""

from collections.abc import Sequence

import torch
from detectron2.modeling.matcher import Matcher
from torch import Tensor


class FlooredMatcher(Matcher):
    """Detectron2's ``Matcher`` whose low-quality matches need a minimal overlap.

    Detectron2 makes the best boxes of every ground truth positive however small the overlap is,
    and lets them regress to whichever ground truth they overlap most. Here they must reach a
    floor, and they regress to the ground truth that claimed them (of several, the last), as in
    the published training.

    Args:
        thresholds: IoU limits between the labels, ascending, 0..1.
        labels: labels of the ranges between the limits: 0 background, -1 ignored, 1 foreground.
        low_quality_floor: IoU that the best boxes of a ground truth must reach to be made positive.
    """

    def __init__(
        self, thresholds: Sequence[float], labels: Sequence[int], low_quality_floor: float
    ):
        super().__init__(list(thresholds), list(labels), allow_low_quality_matches=False)
        self.low_quality_floor = low_quality_floor

    def __call__(self, match_quality_matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Match N predictions to M ground truths.

        Args:
            match_quality_matrix: (M, N) IoU.

        Returns:
            Index of the matched ground truth and label of every prediction, both (N,).
        """
        matches, labels = super().__call__(match_quality_matrix)
        if match_quality_matrix.numel() == 0:
            return matches, labels
        best = match_quality_matrix.max(dim=1, keepdim=True).values
        claimed = (match_quality_matrix == best) & (best >= self.low_quality_floor)
        # Of several ground truths that claim a prediction the last one gets it.
        order = torch.arange(1, len(best) + 1, device=best.device).unsqueeze(1)
        claimant = (claimed * order).max(dim=0).values
        matches = torch.where(claimant > 0, claimant - 1, matches)
        labels = torch.where(claimant > 0, labels.new_ones(()), labels)
        return matches, labels
