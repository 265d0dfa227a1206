"""Random choice of training samples."""

import torch

from detectron2.layers import nonzero_tuple


def subsample_labels(labels, num_samples: int, positive_fraction: float, bg_label: int):
    """Draw up to ``num_samples`` labels, positives at most ``positive_fraction`` of that number.

    Missing positives are made up for by negatives, as far as there are any.

    Args:
        labels: (N,) class labels; ``bg_label`` is negative, -1 ignored, all others positive.
        num_samples: how many to draw.
        positive_fraction: 0..1.
        bg_label: label of the background.

    Returns:
        indices of the positive and of the negative samples.
    """
    positive = nonzero_tuple((labels != -1) & (labels != bg_label))[0]
    negative = nonzero_tuple(labels == bg_label)[0]
    num_pos = min(positive.numel(), int(num_samples * positive_fraction))
    num_neg = min(negative.numel(), num_samples - num_pos)
    # All of them are shuffled, also when few are wanted: one random stream for every setting.
    shuffled_pos = torch.randperm(positive.numel(), device=positive.device)[:num_pos]
    shuffled_neg = torch.randperm(negative.numel(), device=negative.device)[:num_neg]
    return positive[shuffled_pos], negative[shuffled_neg]
