"""Scores of all cells of an image's last feature map, by any classifier of timm.

B images, C channels, K classes, H W cells, N tokens.
"""

import math

import torch
from torch import Tensor, nn

from lvt_d2.errors import ConfigError

TOP = 5  # classes kept of each cell, as in the published labels


class DenseAnnotator(nn.Module):
    """Gives the best classes of every cell of a classifier's last map, and their scores.

    The classifier's head looks at one cell at a time, as if it were the whole image. Models with
    a head for tokens (``aux_head``: LVT's, VOLO's) use that.

    A target takes 0 for the score of all classes but the best. So that this is true on average,
    the log of the mean exponential of the others is subtracted: softmax then gives the best classes
    the probabilities that the annotator gave them, whatever the level of its logits.

    Args:
        model: a classifier of timm.
        raw_scores: keep the logits as they are; right only for models whose logits have a mean of
            about 0.

    Shape:
        (B, C, H, W) images -> scores (B, k, h, w) float32 and classes (B, k, h, w) int64 in
        descending order, k = 5 or the classes if they are fewer.

    Raises:
        ConfigError: the model's features or head are of an unknown form.
    """

    def __init__(self, model: nn.Module, raw_scores: bool = False):
        super().__init__()
        for name in ("forward_features", "forward_head", "num_classes", "num_features"):
            if not hasattr(model, name):
                raise ConfigError(
                    f"{type(model).__name__} has no {name}; an annotator must be one of timm's "
                    "classifiers."
                )
        if model.num_classes < 1:
            raise ConfigError(
                f"{type(model).__name__} has {model.num_classes} classes; an annotator needs a "
                "classification head."
            )
        self.model = model
        self.raw_scores = raw_scores

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = dense_logits(self.model, images).float()
        K = logits.shape[-1]
        scores, classes = logits.topk(min(TOP, K), dim=-1)
        if not self.raw_scores:
            others = logits.scatter(-1, classes, -torch.inf)
            count = K - scores.shape[-1]
            level = others.logsumexp(-1) - math.log(count) if count else scores.mean(-1)
            scores = scores - level[..., None]
        return scores.permute(0, 3, 1, 2), classes.permute(0, 3, 1, 2)


def dense_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Logits (B, h, w, K) of every cell of the model's last map."""
    features = model.forward_features(images)
    if isinstance(features, Tensor) and features.dim() == 4:
        logits = _of_map(model, features)
    elif isinstance(features, Tensor) and features.dim() == 3:
        logits = _of_tokens(model, features, images.shape[-2] / images.shape[-1])
    else:
        found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise _unknown(model, f"forward_features gives {found}")
    if logits.shape[-1] != model.num_classes:
        raise _unknown(model, f"its head gives {logits.shape[-1]} numbers")
    return logits


def _of_map(model: nn.Module, features: Tensor) -> Tensor:
    """Logits of a map (B, C, h, w), or (B, h, w, C) as some transformers have."""
    C = model.num_features
    channels_last = features.shape[3] == C
    if channels_last and features.shape[1] == C:
        channels_last = str(getattr(model, "output_fmt", "NCHW")).endswith("NHWC")
    elif not channels_last and features.shape[1] != C:
        raise _unknown(model, f"forward_features gives {tuple(features.shape)}, not {C} channels")
    last = features if channels_last else features.permute(0, 2, 3, 1)
    B, h, w, _ = last.shape
    cells = last.reshape(B * h * w, 1, 1, C)
    cells = cells if channels_last else cells.permute(0, 3, 1, 2)
    return _head(model, cells).view(B, h, w, -1)


def _of_tokens(model: nn.Module, features: Tensor, aspect: float) -> Tensor:
    """Logits of tokens (B, prefix + N, C), whose rows and columns follow the image's aspect."""
    prefix = getattr(model, "num_prefix_tokens", 0)
    has_aux = isinstance(getattr(model, "aux_head", None), nn.Module)
    if has_aux and not prefix:
        prefix = int(_rows(features.shape[1], aspect) is None)  # VOLO does not tell of its token
    tokens = features[:, prefix:]
    B, N, C = tokens.shape
    rows = _rows(N, aspect)
    if rows is None:
        raise _unknown(model, f"forward_features gives {N} tokens, no map of the image's aspect")
    if has_aux:
        logits = model.aux_head(tokens)
    else:
        cells = tokens.reshape(B * N, 1, C)
        if getattr(model, "global_pool", "") in {"", "token"}:
            cells = cells.expand(-1, max(prefix, 1), -1)  # each stands for the class token
        elif prefix:
            first = features[:, :prefix].repeat_interleave(N, 0)
            cells = torch.cat([first, cells], dim=1)
        logits = _head(model, cells)
    return logits.view(B, rows, N // rows, -1)


def _rows(tokens: int, aspect: float) -> int | None:
    """Rows of a map of so many tokens, or None if there is none of this height : width."""
    rows = round(math.sqrt(tokens * aspect))
    fits = rows > 0 and tokens % rows == 0 and abs(rows - tokens / rows * aspect) < 1
    return rows if fits else None


def _head(model: nn.Module, cells: Tensor) -> Tensor:
    logits = model.forward_head(cells)
    if not isinstance(logits, Tensor) or logits.shape[:-1] != cells.shape[:1]:
        raise _unknown(model, "its head does not give one row of logits per map")
    return logits


def _unknown(model: nn.Module, reason: str) -> ConfigError:
    return ConfigError(
        f"{type(model).__name__} can't annotate: {reason}. Expected timm's usual forms: a map of "
        f"{model.num_features} channels or a sequence of tokens, and a head of "
        f"{model.num_classes} classes. Choose another model."
    )
