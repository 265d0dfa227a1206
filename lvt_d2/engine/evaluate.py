"""Evaluation of a model on the test sets of a config."""

import json
import math
import os
from collections import OrderedDict
from collections.abc import Sequence

from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig, ListConfig
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lvt_d2.engine.build import build
from lvt_d2.errors import ConfigError
from lvt_d2.randomness import random_states_kept

RESULTS_FILE = "results.json"


def evaluate(model: nn.Module, dataloader: DictConfig, output_dir: str) -> OrderedDict:
    """Run ``dataloader.test`` through the model and ``dataloader.evaluator``; log the tables.

    Every process calls it. The model is back in its mode afterwards, whatever happens, and so are
    the random number generators: a training draws the same numbers however often it is evaluated.

    Args:
        model: wrapped in DistributedDataParallel or not.
        dataloader: of the config: ``test``, a loader, and ``evaluator``, one or several; or a
            list of loaders and a list of one evaluator each.
        output_dir: the main process writes ``results.json`` there.

    Returns:
        Results by task on the main process, by data set where there are several; empty elsewhere.
    """
    if isinstance(model, DistributedDataParallel):
        model = model.module  # its processes may have different numbers of images to predict
    was_training = model.training
    try:
        with random_states_kept():
            results = _results(model, dataloader)
    finally:
        model.train(was_training)
    if comm.is_main_process():
        os.makedirs(output_dir, exist_ok=True)
        with open(os.path.join(output_dir, RESULTS_FILE), "w") as file:
            json.dump(_without_nan(results), file, indent=2)
    return results


def _results(model: nn.Module, dataloader: DictConfig) -> OrderedDict:
    if "test" not in dataloader or "evaluator" not in dataloader:
        return OrderedDict()
    if not isinstance(dataloader.test, (ListConfig, list)):
        return _evaluate_one(model, dataloader.test, dataloader.evaluator)
    evaluators = dataloader.evaluator
    count = len(evaluators) if isinstance(evaluators, Sequence) else 1
    if count != len(dataloader.test):
        raise ConfigError(
            f"dataloader.test lists {len(dataloader.test)} loaders, but dataloader.evaluator has "
            f"{count} entries; expected one each"
        )
    results = OrderedDict()
    for i, (loader, evaluator) in enumerate(zip(dataloader.test, evaluators, strict=True)):
        results[_dataset_name(loader, i)] = _evaluate_one(model, loader, evaluator)
    return results


def _evaluate_one(model: nn.Module, loader, evaluator) -> OrderedDict:
    evaluator = build(evaluator, "dataloader.evaluator")
    if isinstance(evaluator, Sequence):
        evaluator = list(evaluator)
    results = inference_on_dataset(model, build(loader, "dataloader.test"), evaluator)
    if not comm.is_main_process():
        return OrderedDict()
    print_csv_format(results)
    return results


def _dataset_name(loader: DictConfig, index: int) -> str:
    names = loader.get("dataset", {}).get("names", None)
    return names if isinstance(names, str) else f"test{index}"


def _without_nan(value):
    """The same tree with null for numbers that JSON has no name for."""
    if isinstance(value, dict):
        return {str(key): _without_nan(child) for key, child in value.items()}
    number = float(value)
    return number if math.isfinite(number) else None
