"""Training targets of crops, made from the label maps of their whole images.

B images, K classes, H W cells of a label map, S rows and columns of tokens.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lvt_imagenet.token_labels.batch import TokenLabels


def roi_weights(start: Tensor, size: Tensor, cells: int, bins: int) -> Tensor:
    """RoIAlign along one axis as a matrix: what every bin takes from every cell.

    RoIAlign of a box is the product of this along rows and columns, since its samples stand on a
    grid. There are ``ceil(size / bins)`` samples in a bin, evenly spaced, interpolated linearly.

    Args:
        start: (B,), where the box begins; cell i has its centre at i.
        size: (B,), its length in cells, at most ``cells``.
        cells: length of the map's axis.
        bins: parts that the box is divided into.

    Returns:
        (B, bins, cells) float32; rows sum to 1 where the box is on the map.
    """
    bin_size = (size / bins)[:, None, None]
    count = bin_size.ceil().clamp(min=1)
    # One more than a box as large as the map needs: rounding may make it a little larger.
    sample = torch.arange(-(-cells // bins) + 1, device=start.device, dtype=start.dtype)
    place = torch.arange(bins, device=start.device, dtype=start.dtype)[:, None]
    position = start[:, None, None] + place * bin_size + (sample + 0.5) * bin_size / count
    used = (sample < count) & (position >= -1) & (position <= cells)
    position = position.clamp(0, cells - 1)
    cell = torch.arange(cells, device=start.device, dtype=start.dtype)
    weights = (1 - (position[..., None] - cell).abs()).clamp(min=0) * used[..., None]
    return weights.sum(2) / count


def mixup_targets(target: Tensor, lam: float) -> Tensor:
    """Targets of a batch mixed with itself in reverse order.

    Args:
        target: (B, ...).
        lam: share of every image's own target, 0..1.
    """
    return target * lam + target.flip(0) * (1 - lam)


class TokenLabelTarget(nn.Module):
    """Makes the target of a batch of crops out of its label maps, on the maps' device.

    Label maps are sparse: only the best classes of a cell have a score, all others score 0. The
    dense map is pooled by RoIAlign over the crop, to one cell and to SxS, flipped as the image
    was; the softmax over classes of the pooled scores is smoothed towards uniform.

    Args:
        num_classes: K; indices in the maps are below it.
        size: S, or rows and columns of tokens where these differ; 1 for no labels of tokens: then
            the target is (B, K, 2).
        smoothing: share of the uniform distribution (LVT's recipe: 0.1).
        official_crop_order: exchange rows and columns of the crop, as the published token-label
            package does by mistake, and its RoIs of one cell at least. Only to reproduce its
            numbers: labels then lie elsewhere than what the image shows.

    Shape:
        `TokenLabels` -> (B, K, 2 + S*S) float32, whose memory has classes last. Column 0 is the
        smoothed ground truth, 1 the label of the whole crop, then tokens row by row.
    """

    def __init__(
        self,
        num_classes: int,
        size: int | tuple[int, int] = 7,
        smoothing: float = 0.1,
        official_crop_order: bool = False,
    ):
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        if num_classes < 1 or min(self.size) < 1 or not 0 <= smoothing <= 1:
            raise ValueError(
                f"num_classes is {num_classes}, size {size}, smoothing {smoothing}; expected "
                "num_classes and size of at least 1, and smoothing in 0..1"
            )
        self.num_classes = num_classes
        self.smoothing = smoothing
        self.official_crop_order = official_crop_order

    @torch.no_grad()
    def forward(self, labels: TokenLabels) -> Tensor:
        with torch.autocast(labels.scores.device.type, enabled=False):
            truth = F.one_hot(labels.ground_truth, self.num_classes).float()
            target = torch.cat([truth[:, None], self._pooled(labels).softmax(-1)], dim=1)
            target = target * (1 - self.smoothing) + self.smoothing / self.num_classes
        return target.transpose(1, 2)

    def _pooled(self, labels: TokenLabels) -> Tensor:
        """Scores of the whole crop, and of tokens if there are some: (B, 1 [+ S*S], K)."""
        B, _, H, W = labels.scores.shape
        rows, columns = self._weights(labels, H, W)
        bins = columns.shape[1]
        # Only k of K scores differ from 0, so columns are pooled before there is a dense map: half
        # the time of RoIAlign on one, and its memory times bins / W.
        scores = labels.scores.float().permute(0, 2, 3, 1)[..., None]
        scores = (scores * columns.transpose(1, 2)[:, None, :, None]).flatten(2, 3)
        places = labels.indices.long().permute(0, 2, 3, 1).flatten(2)[..., None].expand_as(scores)
        pooled = scores.new_zeros(B, H, self.num_classes, bins).scatter_add_(2, places, scores)
        pooled = torch.matmul(rows, pooled.flatten(2)).unflatten(2, (-1, bins))
        whole = pooled[:, :1, :, 0]
        tokens = pooled[:, 1:, :, 1:].transpose(2, 3).flatten(1, 2)
        return torch.cat([whole, tokens], 1)

    def _weights(self, labels: TokenLabels, H: int, W: int) -> tuple[Tensor, Tensor]:
        """RoIAlign along rows (B, bins, H) and columns (B, bins, W); bin 0 is the whole crop."""
        top, left, height, width = labels.crop.unbind(1)
        if self.official_crop_order:
            top, left, height, width = left, top, width, height
        hflip, vflip = labels.flips.unbind(1)
        axes = (top, height, H, self.size[0], vflip), (left, width, W, self.size[1], hflip)
        return tuple(self._axis_weights(*axis) for axis in axes)

    def _axis_weights(
        self, start: Tensor, length: Tensor, cells: int, bins: int, flip: Tensor
    ) -> Tensor:
        first, last = start * cells - 0.5, (start + length) * cells - 0.5
        extent = last - first
        if self.official_crop_order:
            extent = extent.clamp(min=1)
        whole = roi_weights(first, extent, cells, 1)
        if self.size == (1, 1):
            return whole
        tokens = roi_weights(first, extent, cells, bins)
        tokens = torch.where(flip[:, None, None], tokens.flip(1), tokens)
        return torch.cat([whole, tokens], dim=1)

    def extra_repr(self) -> str:
        return (
            f"num_classes={self.num_classes}, size={self.size}, smoothing={self.smoothing}, "
            f"official_crop_order={self.official_crop_order}"
        )
