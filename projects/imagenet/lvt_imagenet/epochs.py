"""Epoch after epoch: train, evaluate, write down, save."""

import logging
import time

import torch

from lvt_imagenet import distributed
from lvt_imagenet.evaluation import evaluate
from lvt_imagenet.loaders import Loader
from lvt_imagenet.records import Records
from lvt_imagenet.store import Store
from lvt_imagenet.training import Trainer

logger = logging.getLogger(__name__)


def fit(trainer: Trainer, validation: Loader | None, store: Store) -> None:
    """Run the epochs that are left.

    Args:
        trainer: with its state loaded, if it goes on.
        validation: images to evaluate after each epoch; None for none.
        store: where checkpoints go, from the main process.

    Raises:
        LVTError: as training, evaluation and saving do.
    """
    settings, main_process = trainer.settings, distributed.is_main()
    records = None
    if main_process:
        records = Records(
            settings.output, settings.tensorboard, settings.wandb, vars(settings), trainer.epoch
        )

    def save_state() -> None:
        state = trainer.state()
        if main_process:
            store.save(state)

    end = min(trainer.epochs, settings.stop_after or trainer.epochs)
    while trainer.epoch < end:
        begin, epoch, broken = time.perf_counter(), trainer.epoch, trainer.loader.unreadable
        row = {"epoch": epoch, **trainer.train_epoch(save_state)}
        metric, averaged = None, False
        if validation is not None:
            row |= judge(trainer, validation)
            metric = max(row["top1"], row.get("ema_top1", 0.0))
            averaged = row["top1"] < metric
        lost = torch.tensor(trainer.loader.unreadable - broken, device=trainer.device)
        row["unreadable"] = int(distributed.total(lost))
        row["seconds"] = time.perf_counter() - begin
        state = trainer.state()
        if main_process:
            records.write(row)
            best = trainer.ema.module if averaged else trainer.model
            weights = {"model": best.state_dict(), "averaged": averaged, "epoch": epoch}
            store.save_epoch(
                state, epoch, metric, {**weights, "metrics": row, **trainer.description()}
            )
            numbers = "  ".join(f"{name} {value:.5g}" for name, value in row.items())
            logger.info("%s  best top1 %s", numbers, store.best)
    if main_process:
        records.close()


def judge(trainer: Trainer, validation: Loader) -> dict[str, float]:
    """Evaluate the weights and, where there is one, their average."""
    amp = trainer.settings.amp
    result = evaluate(trainer.model.eval(), validation, amp)
    row = {name: result[name] for name in ("top1", "top5", "loss")}
    if trainer.ema is not None:
        result = evaluate(trainer.ema.module, validation, amp)
        row |= {f"ema_{name}": result[name] for name in ("top1", "top5", "loss")}
    return row
