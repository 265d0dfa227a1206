#!/usr/bin/env python
"""Trains an image classifier, LVT by the published recipe if nothing else is said.

    train.py DATA --token-labels LABELS                        the published recipe, one process
    torchrun --nproc-per-node 8 train.py DATA ...              the same on 8 GPUs
    train.py DATA --config configs/digits.yaml --epochs 10     other settings

DATA is a folder with train/CLASS/*.jpg and val/CLASS/*.jpg, or what --dataset says. Settings are
those of configs/lvt_imagenet.yaml, changed by the file of --config and then by options; every key
of such a file is an option and the other way round (in brackets: the published value). All numbers
are for one process, lr for all of them together.

The output folder gets last.pth (to --resume from), best.pth (weights of the best evaluation, for
validate.py, --init-checkpoint, and the Detectron2 configs as train.init_checkpoint), epoch-*.pth,
metrics.csv, TensorBoard files and log.txt. The exit status is 2 for mistakes of the command line
and the config, 1 for data, checkpoints, and losses that are not finite, 130 after Ctrl-C.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Threads that wait for each other sleep: spinning, they take the cores from the loader's workers
# and from other programs, and wait for them in turn, many times longer. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # also where it is not installed
sys.path.insert(0, str(Path(__file__).resolve().parent))

import lvt_d2  # noqa: F401, I001  decides which engine answers, and registers LVT's models in timm
import torch
from detectron2.utils.logger import setup_logger
from lvt_d2.engine.checks import check_output_dir
from lvt_d2.errors import ConfigError
from lvt_imagenet import distributed
from lvt_imagenet.data import class_names, count_classes, open_train, open_validation
from lvt_imagenet.epochs import fit
from lvt_imagenet.loaders import eval_loader, train_loader
from lvt_imagenet.models import create_model
from lvt_imagenet.settings import read_settings
from lvt_imagenet.samples import seed_all
from lvt_imagenet.store import Store
from lvt_imagenet.training import Trainer
from lvt_imagenet.weights import read_weights, start_from

logger = logging.getLogger("lvt_imagenet.train")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    return distributed.run(
        lambda: train(read_settings(argv, __doc__)),
        "; --resume goes on from the last checkpoint",
    )


def train(settings: argparse.Namespace) -> None:
    """What every process does."""
    store = Store(settings.output, settings.keep)
    check_output(settings, store)
    device = distributed.pick_device(settings.device)
    distributed.connect(device)
    setup_logger(settings.output, distributed.rank(), name="lvt_imagenet")

    dataset = open_train(settings)
    classes = class_names(dataset)
    num_classes = count_classes(settings, classes)
    seed_all(settings.seed, device)
    model = create_model(settings, num_classes)
    resume = settings.resume and distributed.agree(store.last.exists(), f"there is {store.last}")
    if settings.init_checkpoint and not resume:
        weights = read_weights(settings.init_checkpoint, settings.init_ema)
        start_from(model, weights, classes)
    model.to(device)
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)

    trainer = Trainer(
        model, train_loader(dataset, settings, num_classes, device), settings, classes
    )
    validation = None
    if settings.val_split is not None:
        part = open_validation(settings, classes)
        validation = eval_loader(part, settings, num_classes, device)
    if resume:
        trainer.load_state(store.load(), str(store.last))
    tell(trainer, dataset, resume)
    fit(trainer, validation, store)


def check_output(settings: argparse.Namespace, store: Store) -> None:
    """Refuse a folder that can't be written, or that holds another training.

    Raises:
        ConfigError: it does.
    """
    try:
        check_output_dir(settings.output)
    except ConfigError as error:
        raise ConfigError(
            f"Nothing can be written to the output folder {settings.output} ({error.__cause__}); "
            "give another --output"
        ) from error
    if store.last.exists() and not settings.resume:
        raise ConfigError(
            f"{settings.output} holds a training already ({store.last.name}); go on with it by "
            "--resume, or give another --output"
        )


def tell(trainer: Trainer, dataset, resume: bool) -> None:
    """Log what is about to happen."""
    settings, world = trainer.settings, distributed.world_size()
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    logger.info("Settings: %s", vars(settings))
    logger.info(
        "%s of %s parameters, %d classes, on %s; %d images, %d updates of %d x %d x %d an epoch",
        settings.model,
        f"{parameters:,}",
        trainer.model.num_classes,
        trainer.device,
        len(dataset),
        trainer.updates,
        world,
        settings.grad_accum_steps,
        settings.batch_size,
    )
    if resume:
        logger.info("Resumed at epoch %d, update %d", trainer.epoch + 1, trainer.update)


if __name__ == "__main__":
    sys.exit(main())
