"""COCO panoptic as instances beside stuff labels: loaders and evaluators."""

from detectron2.config import LazyCall as L
from detectron2.evaluation import COCOEvaluator, COCOPanopticEvaluator, SemSegEvaluator

from .coco import dataloader

dataloader.train.dataset.names = "coco_2017_train_panoptic_separated"
dataloader.train.dataset.filter_empty = False
dataloader.test.dataset.names = "coco_2017_val_panoptic_separated"
dataloader.evaluator = [
    L(evaluator)(dataset_name="${...test.dataset.names}")
    for evaluator in (COCOEvaluator, SemSegEvaluator, COCOPanopticEvaluator)
]
