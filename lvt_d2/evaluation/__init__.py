"""Evaluators for panoptic sets; ground truth comes from the panoptic PNGs alone."""

from lvt_d2.evaluation.instance_evaluator import InstanceEvaluator
from lvt_d2.evaluation.panoptic_evaluator import PanopticEvaluator
from lvt_d2.evaluation.panoptic_quality import PanopticQuality, panoptic_quality
from lvt_d2.evaluation.pictures import PredictionPictures
from lvt_d2.evaluation.semantic_evaluator import SemanticEvaluator

__all__ = [
    "InstanceEvaluator",
    "PanopticEvaluator",
    "PanopticQuality",
    "PredictionPictures",
    "SemanticEvaluator",
    "panoptic_quality",
]
