"""From a config to a training that can be interrupted anywhere."""

import torch
from detectron2.engine import HookBase, create_ddp_model, hooks
from detectron2.utils import comm
from omegaconf import DictConfig, ListConfig
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lvt_d2.checkpoint import LVTCheckpointer, WeightsCheckpointer
from lvt_d2.engine.build import build
from lvt_d2.engine.ema import build_ema
from lvt_d2.engine.evaluate import evaluate
from lvt_d2.engine.evaluation_hook import Evaluation
from lvt_d2.engine.optimizer import make_settings_plain
from lvt_d2.engine.progress import writer_hooks
from lvt_d2.engine.resume import Checkpoints, EventHistory
from lvt_d2.engine.trainer import Trainer, amp_dtype
from lvt_d2.errors import ConfigError


def train(cfg: DictConfig, model: nn.Module, resume: bool) -> None:
    """Train, evaluating on the way and at the end; every process calls it.

    Args:
        cfg: of the training tool, which documents the keys that are read here.
        model: on its device.
        resume: go on from the last checkpoint of ``train.output_dir``, if it has one.
    """
    cfg.optimizer.params.model = model
    optimizer = make_settings_plain(build(cfg.optimizer, "optimizer"))
    ema = build_ema(model, cfg.train.ema.decay) if cfg.train.ema.enabled else None
    trainer = build_trainer(cfg, model, optimizer)
    checkpointer = LVTCheckpointer(
        model, cfg.train.output_dir, trainer=trainer, **({} if ema is None else {"ema": ema})
    )
    trainer.register_hooks(build_hooks(cfg, checkpointer, ema))
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    # The checkpoint holds the iteration that was just done.
    start_iter = trainer.iter + 1 if checkpointer.resumed_from else 0
    if comm.is_main_process():
        trainer.register_hooks(
            writer_hooks(
                cfg.train.output_dir,
                cfg.train.max_iter,
                cfg.train.log_period,
                resume_iter=start_iter if resume else None,
            )
        )
    trainer.train(start_iter, cfg.train.max_iter)


def build_trainer(cfg: DictConfig, model: nn.Module, optimizer: torch.optim.Optimizer) -> Trainer:
    """The loop around the model, which is wrapped where there are several processes."""
    data_loader = build(cfg.dataloader.train, "dataloader.train")
    ddp = dict(cfg.train.ddp)
    if cfg.train.device == "cpu":
        ddp["device_ids"] = None
    return Trainer(
        create_ddp_model(model, **ddp),
        data_loader,
        optimizer,
        amp_dtype(cfg.train.amp.enabled, cfg.train.amp.get("dtype", "float16")),
        cfg.train.accumulate,
    )


def build_hooks(
    cfg: DictConfig, checkpointer: LVTCheckpointer, ema: AveragedModel | None
) -> list[HookBase]:
    """Everything around a step but the writers, in the order of execution.

    The checkpoint comes after all that it contains, the states of ``train.hooks`` too, and before
    the evaluation, whose failure then loses nothing.
    """
    model, best = checkpointer.model, cfg.train.best_checkpointer
    evaluated = ema.module if ema is not None and cfg.train.ema.evaluate else model
    checkpoints = Checkpoints(checkpointer, **cfg.train.checkpointer)
    averaging = []
    if ema is not None:
        averaging = [hooks.CallbackHook(after_step=lambda _: ema.update_parameters(model))]
    return [
        hooks.IterationTimer(warmup_iter=1),  # the first one counts, after a restart too
        hooks.LRScheduler(scheduler=build(cfg.lr_multiplier, "lr_multiplier")),
        *averaging,
        *_own_hooks(cfg.train.hooks),
        EventHistory(),
        checkpoints,
        Evaluation(
            cfg.train.eval_period,
            lambda: evaluate(evaluated, cfg.dataloader, cfg.train.output_dir),
            WeightsCheckpointer(evaluated, cfg.train.output_dir) if best.val_metric else None,
            metric=best.val_metric,
            mode=best.mode,
            afterwards=checkpoints.save_again,
        ),
    ]


def _own_hooks(sections: ListConfig) -> list[HookBase]:
    """Hooks that the config adds."""
    built = []
    for i, section in enumerate(sections):
        hook = build(section, f"train.hooks.{i}")
        if not isinstance(hook, HookBase):
            raise ConfigError(
                f"train.hooks.{i} is of the type {type(hook).__name__}; expected a LazyCall of a "
                "subclass of detectron2.engine.HookBase"
            )
        built.append(hook)
    return built
