"""COCO panoptic as downloaded, with the published pipeline; 64 images per iteration."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from lvt_d2.data import (
    PanopticMapper,
    ResizeKeepRatio,
    build_test_loader,
    build_train_loader,
    get_panoptic_dicts,
)
from lvt_d2.evaluation import InstanceEvaluator, PanopticEvaluator, SemanticEvaluator

dataloader = OmegaConf.create()

dataloader.train = L(build_train_loader)(
    dataset=L(get_panoptic_dicts)(
        names="lvt_coco_2017_train_panoptic",
        # Official: no images without a thing or under 32 pixels. Detectron2 keeps both for
        # panoptic models.
        filter_empty=True,
        min_size=32,
        # A model of other classes is refused here; null checks nothing, as does a config whose
        # model lacks the key.
        num_things="${oc.select:model.roi_heads.num_classes,null}",
        num_stuff="${oc.select:model.sem_seg_head.num_classes,null}",
    ),
    mapper=L(PanopticMapper)(
        is_train=True,
        augmentations=[
            # Official: any length from 640 to 800, bilinear without antialiasing. Detectron2:
            # L(T.ResizeShortestEdge)(short_edge_length=(640, 672, 704, 736, 768, 800),
            # sample_style="choice", max_size=1333), Pillow's arithmetic.
            L(ResizeKeepRatio)(short_edge=(640, 800), max_size=1333, sample_style="range"),
            L(T.RandomFlip)(prob=0.5, horizontal=True),
        ],
        # Official: RGB. Detectron2's own models read BGR.
        image_format="RGB",
        # Official: the JSON's boxes. "masks" makes them tight, for augmentations that rotate.
        box_source="json",
        # True: a broken training image is logged, counted and replaced by another one.
        skip_broken=False,
    ),
    total_batch_size=64,
    # Official, and Detectron2's default: wide images together, tall ones together.
    aspect_ratio_grouping=True,
    # None: the cores of the machine, shared out, at most 8 per process.
    num_workers=None,
)

dataloader.test = L(build_test_loader)(
    dataset=L(get_panoptic_dicts)(
        names="lvt_coco_2017_val_panoptic",
        filter_empty=False,
        min_size=0,
        num_things="${...train.dataset.num_things}",
        num_stuff="${...train.dataset.num_stuff}",
    ),
    mapper=L(PanopticMapper)(
        is_train=False,
        augmentations=[L(ResizeKeepRatio)(short_edge=800, max_size=1333)],
        image_format="${...train.mapper.image_format}",
    ),
    batch_size=1,
    num_workers="${..train.num_workers}",
)

dataloader.evaluator = [
    L(PanopticEvaluator)(
        dataset_name="${...test.dataset.names}",
        output_dir="${train.output_dir}/inference",
    ),
    L(InstanceEvaluator)(dataset_name="${...test.dataset.names}", tasks=("bbox", "segm")),
    L(SemanticEvaluator)(dataset_name="${...test.dataset.names}"),
]
