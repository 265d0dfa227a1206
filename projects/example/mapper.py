"""A mapper of one's own: some training images lose their colours."""

import random

from lvt_d2.data import SemanticMapper


class GreyMapper(SemanticMapper):
    """`SemanticMapper` that makes a share of the training images grey.

    It may draw from any generator: the loader seeds them all anew for every image, so that a
    resumed training sees what an uninterrupted one would have seen.

    Args:
        share: of the training images, 0..1.
        **kwargs: as for `SemanticMapper`.
    """

    def __init__(self, *, share: float, **kwargs):
        super().__init__(**kwargs)
        self.share = share

    def __call__(self, dataset_dict: dict) -> dict | None:
        mapped = super().__call__(dataset_dict)
        if mapped is not None and self.is_train and random.random() < self.share:
            image = mapped["image"]
            grey = image.float().mean(dim=0).to(image.dtype)
            mapped["image"] = grey.expand_as(image).contiguous()
        return mapped
