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
    train.ddp.*                 arguments of DistributedDataParallel, and ``fp16_compression``
    train.checkpointer.period, .max_to_keep
                                iterations between two checkpoints; how many of them to keep
    train.eval_period           iterations between two evaluations, 0 for only one at the end
    train.log_period            iterations between two lines of the log
"""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is not installed

import lvt_d2  # noqa: I001  decides which engine answers to the imports below
from detectron2.engine import create_ddp_model, default_argument_parser, default_setup, hooks
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from lvt_d2.checkpoint import LVTCheckpointer
from lvt_d2.engine import (
    Trainer,
    amp_dtype,
    build,
    check_output_dir,
    check_weights,
    evaluate,
    launch,
    load_config,
    make_settings_plain,
    writer_hooks,
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
    checkpointer = LVTCheckpointer(model, cfg.train.output_dir)
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
    evaluate(model, cfg.dataloader, cfg.train.output_dir)


def do_train(cfg: DictConfig, args: argparse.Namespace) -> None:
    """Train, evaluating on the way and at the end."""
    model = build_model(cfg)
    cfg.optimizer.params.model = model
    optimizer = make_settings_plain(build(cfg.optimizer, "optimizer"))
    data_loader = build(cfg.dataloader.train, "dataloader.train")

    ddp = dict(cfg.train.ddp)
    if cfg.train.device == "cpu":
        ddp["device_ids"] = None
    model = create_ddp_model(model, **ddp)
    trainer = Trainer(
        model,
        data_loader,
        optimizer,
        amp_dtype(cfg.train.amp.enabled, cfg.train.amp.get("dtype", "float16")),
    )
    checkpointer = LVTCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    main = comm.is_main_process()
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=build(cfg.lr_multiplier, "lr_multiplier")),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer) if main else None,
            hooks.EvalHook(
                cfg.train.eval_period,
                lambda: evaluate(model, cfg.dataloader, cfg.train.output_dir),
            ),
            *(
                writer_hooks(cfg.train.output_dir, cfg.train.max_iter, cfg.train.log_period)
                if main
                else []
            ),
        ]
    )

    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
    resumed = args.resume and checkpointer.has_checkpoint()
    # The checkpoint holds the iteration that was just done.
    trainer.train(trainer.iter + 1 if resumed else 0, cfg.train.max_iter)


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
