"""Evaluators for panoptic sets, read off the panoptic PNGs alone, and for sets of label files."""

from lvt_d2.evaluation.instance_evaluator import InstanceEvaluator
from lvt_d2.evaluation.panoptic_evaluator import PanopticEvaluator
from lvt_d2.evaluation.panoptic_quality import PanopticQuality, panoptic_quality
from lvt_d2.evaluation.pictures import PredictionPictures, SemanticPictures
from lvt_d2.evaluation.semantic_evaluator import SemanticEvaluator

__all__ = [
    "InstanceEvaluator",
    "PanopticEvaluator",
    "PanopticQuality",
    "PredictionPictures",
    "SemanticEvaluator",
    "SemanticPictures",
    "panoptic_quality",
]
