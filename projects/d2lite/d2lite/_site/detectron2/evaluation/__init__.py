"""Evaluators and the loop that feeds them."""

# ruff: noqa: F401
from detectron2._scope import missing_attribute

from .coco_evaluation import COCOEvaluator
from .evaluator import DatasetEvaluator, DatasetEvaluators, inference_context, inference_on_dataset
from .panoptic_evaluation import COCOPanopticEvaluator
from .sem_seg_evaluation import SemSegEvaluator
from .testing import flatten_results_dict, print_csv_format, verify_results

__all__ = [name for name in globals() if not name.startswith("_") and name != "missing_attribute"]
__getattr__ = missing_attribute(__name__)
