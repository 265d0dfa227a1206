"""ADE20K's scene parsing as downloaded, with the published pipeline; 16 images per iteration."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from lvt_d2.data import (
    CategoryAreaCrop,
    PadToSize,
    PhotometricDistortion,
    ResizeInRange,
    ResizeKeepRatio,
    ResizeToMultiple,
    SemanticMapper,
    build_test_loader,
    build_train_loader,
    get_semantic_dicts,
)
from lvt_d2.evaluation import SemanticEvaluator

dataloader = OmegaConf.create()

dataloader.train = L(build_train_loader)(
    dataset=L(get_semantic_dicts)(
        names="lvt_ade20k_sem_seg_train",
        # A model of other classes is refused here; null checks nothing, as does a config whose
        # model lacks the key.
        num_classes="${oc.select:model.sem_seg_head.num_classes,null}",
    ),
    mapper=L(SemanticMapper)(
        is_train=True,
        augmentations=[
            L(ResizeInRange)(scale=(2048, 512), ratio_range=(0.5, 2.0)),
            L(CategoryAreaCrop)(crop_size=(512, 512), max_category_area=0.75),
            L(T.RandomFlip)(prob=0.5, horizontal=True),
            L(PhotometricDistortion)(image_format="${...image_format}"),
            # With what is 0 once it is normalised. All images have one size then: the loss is a
            # mean over ignored pixels, too.
            L(PadToSize)(
                size="${..1.crop_size}",
                color="${oc.select:model.pixel_mean,[123.675,116.28,103.53]}",
            ),
        ],
        # Official: RGB. Detectron2's own models read BGR.
        image_format="RGB",
        dataset_name="${..dataset.names}",
        # True: a broken training image is logged, counted and replaced by another one.
        skip_broken=False,
    ),
    total_batch_size=16,
    # All crops have one size.
    aspect_ratio_grouping=False,
    # None: the cores of the machine, shared out, at most 8 per process.
    num_workers=None,
)

dataloader.test = L(build_test_loader)(
    dataset=L(get_semantic_dicts)(
        names="lvt_ade20k_sem_seg_val", num_classes="${...train.dataset.num_classes}"
    ),
    mapper=L(SemanticMapper)(
        is_train=False,
        augmentations=[
            # Official: two resizes, with 8 bits between them.
            L(ResizeKeepRatio)(short_edge=512, max_size=2048),
            L(ResizeToMultiple)(divisor=32),
        ],
        image_format="${...train.mapper.image_format}",
    ),
    batch_size=1,
    num_workers="${..train.num_workers}",
)

dataloader.evaluator = [
    L(SemanticEvaluator)(
        dataset_name="${...test.dataset.names}",
        output_dir="${train.output_dir}/inference",
    ),
]
