"""A model, loaders and an evaluator so small that whole trainings take a second."""

import os
import random
import signal
import time

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from fvcore.common.param_scheduler import ParamScheduler
from torch import nn


class ToyModel(nn.Module):
    """Learns the sum of its two inputs.

    Args:
        dropout: share of the inputs that are dropped in training.
    """

    def __init__(self, dropout=0.0):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.layer = nn.Linear(2, 1)
        nn.init.zeros_(self.layer.weight)

    def forward(self, batch):
        x = torch.stack([image["image"] for image in batch]).to(self.layer.weight.device)
        y = self.layer(self.dropout(x))[:, 0]
        if not self.training:
            return [{"sum": value} for value in y]
        error = y - x.sum(dim=1)
        return {"loss_a": error.square().mean(), "loss_b": error.abs().mean()}


def _image(index: int, poison: bool = False) -> dict:
    values = torch.rand(2, generator=torch.Generator().manual_seed(index))
    return {
        "image": values * float("nan") if poison else values,
        "file_name": f"images/{index:04d}.jpg",
        "image_id": index,
    }


def toy_dicts(count):
    """A data set of wide and tall images."""
    return [{"image_id": i, "width": 2 + i % 3, "height": 3} for i in range(count)]


class JitteredImages:
    """Mapper that draws from all generators, as augmentations do.

    Args:
        seconds: that it takes.
    """

    def __init__(self, seconds=0.0):
        self.seconds = seconds

    def __call__(self, image):
        time.sleep(self.seconds)
        mapped = _image(image["image_id"])
        mapped["image"] *= random.uniform(0.9, 1.1) * np.random.uniform(0.9, 1.1)
        mapped["image"] += 0.1 * torch.rand(2)
        return mapped


class TrainLoader:
    """Batches without end; one image of iteration ``poison_at`` is NaN.

    Args:
        batch_size: images of all processes together.
        poison_at: iteration; below 0 for none.
        poison_rank: process that has the poisoned image.
    """

    def __init__(self, batch_size=4, poison_at=-1, poison_rank=0):
        self.batch_size, self.poison_at, self.poison_rank = batch_size, poison_at, poison_rank
        self.iteration = 0

    def state_dict(self):
        return {"iteration": self.iteration}

    def load_state_dict(self, state):
        self.iteration = state["iteration"]

    def __iter__(self):
        rank, share = comm.get_rank(), self.batch_size // comm.get_world_size()
        while True:
            iteration, self.iteration = self.iteration, self.iteration + 1
            first = iteration * self.batch_size + rank * share
            poison = iteration == self.poison_at and rank == self.poison_rank
            yield [_image(i, poison and i == first) for i in range(first, first + share)]


class KillingSchedule(ParamScheduler):
    """A schedule whose process dies as by ``kill -9`` when it is asked for a later factor.

    Args:
        schedule: that has the factors.
        stop_at: fraction of the training, 0..1.
    """

    def __init__(self, schedule, stop_at):
        self.schedule, self.stop_at = schedule, stop_at

    def __call__(self, where):
        if where >= self.stop_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.schedule(where)


class TestLoader:
    """Ten images one by one, shared among the processes."""

    __test__ = False

    def __init__(self, count=10):
        self.images = range(count)[comm.get_rank() :: comm.get_world_size()]

    def __len__(self):
        return len(self.images)

    def __iter__(self):
        for i in self.images:
            yield [_image(1000 + i)]


class ToyEvaluator(DatasetEvaluator):
    """Mean error of the sums over all processes."""

    def __init__(self, name="sums"):
        self.name = name

    def reset(self):
        self.errors = {}

    def process(self, inputs, outputs):
        for image, output in zip(inputs, outputs, strict=True):
            error = (output["sum"].cpu() - image["image"].sum()).abs().item()
            self.errors[image["image_id"]] = error

    def evaluate(self):
        gathered = comm.gather(self.errors)
        if not comm.is_main_process():
            return {}
        errors = [e for part in gathered for e in part.values()]
        mean = sum(errors) / len(errors)
        return {self.name: {"error": mean, "count": len(errors), "undefined": float("nan")}}
