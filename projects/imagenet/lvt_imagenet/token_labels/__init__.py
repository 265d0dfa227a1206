"""Token labels: reading and writing label maps, loaders that keep them in step, targets."""

from lvt_imagenet.token_labels.batch import LabelMap, TokenLabels, TokenLabelSample, View, collate
from lvt_imagenet.token_labels.compact import CompactFile, CompactLabels, save_compact
from lvt_imagenet.token_labels.dataset import (
    IterableTokenLabelDataset,
    LabelStore,
    TokenLabelDataset,
    with_token_labels,
)
from lvt_imagenet.token_labels.loader import TargetLoader, create_token_label_loader, open_labels
from lvt_imagenet.token_labels.names import class_names
from lvt_imagenet.token_labels.official import OfficialLabels, save_official
from lvt_imagenet.token_labels.targets import TokenLabelTarget, mixup_targets, roi_weights
from lvt_imagenet.token_labels.transforms import TrackedTransform

__all__ = [
    "CompactFile",
    "CompactLabels",
    "IterableTokenLabelDataset",
    "LabelMap",
    "LabelStore",
    "OfficialLabels",
    "TargetLoader",
    "TokenLabelDataset",
    "TokenLabelSample",
    "TokenLabelTarget",
    "TokenLabels",
    "TrackedTransform",
    "View",
    "class_names",
    "collate",
    "create_token_label_loader",
    "mixup_targets",
    "open_labels",
    "roi_weights",
    "save_compact",
    "save_official",
    "with_token_labels",
]
