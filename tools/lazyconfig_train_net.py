#!/usr/bin/env python
"""Trains and evaluates the model of a LazyConfig.

    tools/lazyconfig_train_net.py --config-file configs/panoptic_lvt.py --num-gpus 8 [key=value ...]
    tools/lazyconfig_train_net.py --config-file F --eval-only train.init_checkpoint=MODEL
    torchrun --nproc-per-node 2 tools/lazyconfig_train_net.py --config-file F --num-gpus 0

``--num-gpus 0`` trains on the CPU; ``--num-gpus N train.device=cpu`` does so in N processes.
``--resume`` goes on from the last checkpoint of ``train.output_dir``, if it has one;
``--eval-only`` needs that or ``train.init_checkpoint``. What an override names must exist in the
config; ``+key=value`` adds a key, ``++key=value`` also replaces a whole part by a value.

Keys of the config that are read here (everything else belongs to the model and the loaders):

    model                       the model, called with a batch
    optimizer                   its ``params.model`` is set to the model
    lr_multiplier               an fvcore ParamScheduler, multiplied with the optimizer's rates
    dataloader.train            batches without end
    dataloader.test, .evaluator one loader and its evaluators, or a list of each; both may lack
    train.output_dir            checkpoints, log.txt, metrics.json, results.json, config.yaml
    train.init_checkpoint       weights to start from or to evaluate, official files too; or ""
    train.max_iter              iterations of the whole training
    train.device                "cuda" or "cpu"
    train.seed                  of everything random, below 0 for another one every time
    train.cudnn_benchmark       let cuDNN try its algorithms for every new input size
    train.amp.enabled, .dtype   mixed precision, "float16" or "bfloat16"
    train.accumulate            batches whose gradients are averaged into one iteration's
    train.ema.enabled, .decay   average the weights: share of the average that an iteration keeps
    train.ema.evaluate          evaluate the averaged weights, and keep the best of them
    train.ddp.*                 arguments of DistributedDataParallel, and ``fp16_compression``
    train.checkpointer.period, .max_to_keep
                                iterations between two checkpoints; how many of them to keep
    train.best_checkpointer.val_metric, .mode
                                keep model_best.pth: by which metric of metrics.json ("" for none),
                                and whether "max" or "min" of it is the best
    train.hooks                 hooks of your own, after the step and before the checkpoint
    train.eval_period           iterations between two evaluations, 0 for only one at the end
    train.log_period            iterations between two lines of the log
"""

import argparse
import logging
import os
import sys
from pathlib import Path

# Threads that wait for each other sleep: spinning, they take the cores from the loader's workers
# and from other programs, and wait for them in turn, many times longer. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is not installed

import lvt_d2  # noqa: I001  decides which engine answers to the imports below
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from lvt_d2.checkpoint import LVTCheckpointer
from lvt_d2.engine import (
    build,
    check_output_dir,
    check_weights,
    evaluate,
    launch,
    load_config,
    train,
)
from lvt_d2.errors import LVTError
from lvt_d2.engine.launch import report
from omegaconf import DictConfig

logger = logging.getLogger("lvt_d2.train_net")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Detectron2's arguments; processes of one machine find each other by themselves."""
    parser = default_argument_parser(epilog=__doc__)
    parser.set_defaults(dist_url="auto")
    return parser.parse_args(argv)


def read_config(args: argparse.Namespace) -> DictConfig:
    """The config with its overrides, on the device that ``--num-gpus`` asks for."""
    cfg = load_config(args.config_file, args.opts or ())
    if args.num_gpus == 0:
        cfg.train.device = "cpu"
    return cfg


def build_model(cfg: DictConfig):
    """The model on its device."""
    model = build(cfg.model, "model")
    logger.info("Model:\n%s", model)
    return model.to(cfg.train.device)


def do_eval(cfg: DictConfig, args: argparse.Namespace) -> None:
    """Evaluate ``train.init_checkpoint``, or with ``--resume`` the last checkpoint."""
    model = build_model(cfg)
    averaged = cfg.train.ema.enabled and cfg.train.ema.evaluate
    checkpointer = LVTCheckpointer(model, cfg.train.output_dir, averaged=averaged)
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
    evaluate(model, cfg.dataloader, cfg.train.output_dir)


def do_train(cfg: DictConfig, args: argparse.Namespace) -> None:
    """Train, evaluating on the way and at the end."""
    train(cfg, build_model(cfg), args.resume)


def main(args: argparse.Namespace) -> None:
    """What every process does."""
    cfg = read_config(args)
    default_setup(cfg, args)
    setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name="lvt_d2")
    logger.info("Engine: %s", lvt_d2.ENGINE)
    (do_eval if args.eval_only else do_train)(cfg, args)


def run(argv: list[str] | None = None) -> int:
    """Start the processes; returns the exit status."""
    args = parse_args(argv)
    try:
        cfg = read_config(args)  # mistakes in it show before any process starts
        if args.eval_only:
            check_weights(cfg.train, args.resume)
        check_output_dir(cfg.train.output_dir)
    except LVTError as error:
        return report(error)
    return launch(main, args, cfg.train.device)


if __name__ == "__main__":
    sys.exit(run())
