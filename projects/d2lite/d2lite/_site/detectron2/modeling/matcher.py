"""Which ground truth each prediction belongs to."""

import torch

from detectron2.layers import nonzero_tuple


class Matcher:
    """Assigns to every prediction the ground-truth element of highest quality, and a label.

    Args:
        thresholds: increasing, positive limits between the ranges of quality.
        labels: one for each of the ``len(thresholds) + 1`` ranges, from low to high quality:
            1 positive, 0 negative, -1 ignored. A range includes its lower limit.
        allow_low_quality_matches: also make positive the best predictions of every ground-truth
            element, ties included, whatever their quality. This changes labels, not matches.

    Example: ``thresholds=[0.3, 0.5], labels=[0, -1, 1]`` is negative below 0.3, positive from 0.5.
    """

    def __init__(
        self, thresholds: list[float], labels: list[int], allow_low_quality_matches: bool = False
    ):
        limits = [-float("inf")] + list(thresholds) + [float("inf")]  # noqa: RUF005 (TorchScript)
        assert limits[1] > 0, "Matcher thresholds must be positive"
        # Plain assertions: this class can be used within TorchScript.
        assert limits == sorted(limits), "Matcher thresholds must increase"
        assert len(labels) == len(limits) - 1, "Matcher needs one label more than thresholds"
        assert min(labels) >= -1 and max(labels) <= 1, "Matcher labels must be -1, 0 or 1"
        self.thresholds, self.labels = limits, labels
        self.allow_low_quality_matches = allow_low_quality_matches

    def __call__(self, match_quality_matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Match the columns of a matrix of qualities (M ground truths, N predictions), >= 0.

        Returns:
            matches, int64 (N,): index of the best ground truth (0 where there is none at all);
            match_labels, int8 (N,): labels of the predictions.
        """
        assert match_quality_matrix.dim() == 2
        if match_quality_matrix.numel() == 0:
            # Without ground truth everything is of the lowest quality.
            matches = torch.zeros_like(match_quality_matrix.sum(0), dtype=torch.int64)
            return matches, torch.full_like(matches, self.labels[0], dtype=torch.int8)
        assert torch.all(match_quality_matrix >= 0)

        quality, matches = match_quality_matrix.max(dim=0)
        match_labels = torch.ones_like(matches, dtype=torch.int8)
        for label, low, high in zip(self.labels, self.thresholds[:-1], self.thresholds[1:]):  # noqa: B905
            match_labels[(quality >= low) & (quality < high)] = label
        if self.allow_low_quality_matches:
            self.set_low_quality_matches_(match_labels, match_quality_matrix)
        return matches, match_labels

    def set_low_quality_matches_(self, match_labels, match_quality_matrix):
        """Make positive, in place, the best predictions of every ground truth."""
        best_of_each_gt, _ = match_quality_matrix.max(dim=1)
        best = nonzero_tuple(match_quality_matrix == best_of_each_gt[:, None])[1]
        match_labels[best] = 1
