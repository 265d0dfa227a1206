"""COCO instances as Detectron2 reads them; 64 images per iteration.

The loaders are this project's: a resumed training goes on with the batches it would have seen.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import DatasetMapper, get_detection_dataset_dicts
from detectron2.evaluation import COCOEvaluator
from omegaconf import OmegaConf

from lvt_d2.data import build_test_loader, build_train_loader

dataloader = OmegaConf.create()

dataloader.train = L(build_train_loader)(
    dataset=L(get_detection_dataset_dicts)(names="coco_2017_train", filter_empty=True),
    mapper=L(DatasetMapper)(
        is_train=True,
        augmentations=[
            L(T.ResizeShortestEdge)(
                short_edge_length=(640, 672, 704, 736, 768, 800),
                sample_style="choice",
                max_size=1333,
            ),
            L(T.RandomFlip)(horizontal=True),
        ],
        # As the weights of LVT are. Detectron2's own models read BGR.
        image_format="RGB",
        use_instance_mask=True,
        # "bitmask" for sets whose masks are run lengths.
        instance_mask_format="polygon",
        # True draws boxes anew around the masks, for augmentations that crop or rotate.
        recompute_boxes=False,
    ),
    total_batch_size=64,
    aspect_ratio_grouping=True,
    # None: the cores of the machine, shared out, at most 8 per process.
    num_workers=None,
)

dataloader.test = L(build_test_loader)(
    dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
    mapper=L(DatasetMapper)(
        is_train=False,
        augmentations=[L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)],
        image_format="${...train.mapper.image_format}",
    ),
    batch_size=1,
    num_workers="${..train.num_workers}",
)

dataloader.evaluator = L(COCOEvaluator)(
    dataset_name="${..test.dataset.names}",
    output_dir="${train.output_dir}/inference",
    # True: Detectron2's compiled evaluation, the same numbers sooner where it was built and works.
    use_fast_impl=False,
)
