"""Printing, flattening and checking of results."""

import logging
import pprint
import sys
from collections.abc import Mapping

import numpy as np

logger = logging.getLogger(__name__)


def print_csv_format(results):
    """Log the main metrics of every task as lines that paste into a spreadsheet.

    Metrics with a "-" in their name (those of single classes) are left out.
    """
    assert isinstance(results, Mapping) or not len(results), results
    for task, metrics in results.items():
        lines = [f"{task}={metrics}"]
        if isinstance(metrics, Mapping):
            tracked = {name: f"{value:.4f}" for name, value in metrics.items() if "-" not in name}
            lines = [f"Task: {task}", ",".join(tracked), ",".join(tracked.values())]
        for line in lines:
            logger.info(f"copypaste: {line}")


def verify_results(cfg, results):
    """Compare results with ``cfg.TEST.EXPECTED_RESULTS`` and end the process where they differ.

    Args:
        cfg: its expected results are a list of (task, metric, expected, tolerance).
        results: ``{task: {metric: value}}``.

    Returns:
        True; a mismatch, a missing or a non-finite value is logged and exits with status 1.
    """
    expected_results = cfg.TEST.EXPECTED_RESULTS
    if not len(expected_results):
        return True

    def holds(task, metric, expected, tolerance):
        actual = results[task].get(metric, None)
        return actual is not None and np.isfinite(actual) and not abs(actual - expected) > tolerance

    if not all([holds(*entry) for entry in expected_results]):
        logger.error("Result verification failed!")
        logger.error("Expected Results: " + str(expected_results))
        logger.error("Actual Results: " + pprint.pformat(results))
        sys.exit(1)
    logger.info("Results verification passed.")
    return True


def flatten_results_dict(results):
    """``{"a": {"b": 1}}`` -> ``{"a/b": 1}``, at any depth."""
    flat = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}/{k}": v for k, v in flatten_results_dict(value).items()})
        else:
            flat[key] = value
    return flat
