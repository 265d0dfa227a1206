"""Parameters, multiply-adds and activations of models; every figure names its rule."""

from lvt_d2.analysis.compute import RULES, Analysis, Counts, analyze
from lvt_d2.analysis.report import as_dict, as_markdown

__all__ = ["RULES", "Analysis", "Counts", "analyze", "as_dict", "as_markdown"]
