"""The training step: mixed precision, accumulation, and plain words on losses gone wrong."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.distributed as dist
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lvt_d2.errors import ConfigError, LVTError, NonFiniteLossError

_AMP_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def amp_dtype(enabled: bool, name: str) -> torch.dtype | None:
    """The dtype that ``train.amp`` asks for, None for full precision.

    Raises:
        ConfigError: no such dtype.
    """
    if name not in _AMP_DTYPES:
        raise ConfigError(f"train.amp.dtype is {name!r}; expected {' or '.join(_AMP_DTYPES)}")
    return _AMP_DTYPES[name] if enabled else None


class Trainer(SimpleTrainer):
    """Detectron2's `SimpleTrainer` with mixed precision on CPU and GPU, and accumulation.

    A step whose loss is NaN or infinite on any process raises the same `NonFiniteLossError` on
    all of them, before a parameter is touched. A model that refuses to compute a loss
    (FloatingPointError, as Detectron2's proposals do) raises one on its own process.

    Args:
        model: returns a loss or a dict of losses for a batch.
        data_loader: batches without end.
        optimizer: of the model's parameters.
        amp_dtype: of the forward pass; float16 brings a gradient scaler with it. None: float32.
        accumulate: batches of an iteration. Their gradients and losses are averaged, as those of
            one batch that many times as large (but for BatchNorm, which sees each by itself).
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader,
        optimizer: torch.optim.Optimizer,
        amp_dtype: torch.dtype | None = None,
        accumulate: int = 1,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.amp_dtype = amp_dtype
        self.accumulate = accumulate
        self.device = next(model.parameters()).device
        self.grad_scaler = torch.amp.GradScaler(
            self.device.type, enabled=amp_dtype == torch.float16
        )
        self._batches = self._iterated = None

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations ``start_iter .. max_iter - 1``."""
        with _no_traceback_of_user_errors():
            super().train(start_iter, max_iter)

    def run_step(self) -> None:
        """One update.

        Raises:
            NonFiniteLossError: a loss is NaN or infinite, or the model found such numbers before
                there was a loss; no parameter has changed.
        """
        if not self.model.training:
            raise RuntimeError("The model is in evaluation mode; call model.train() to go on")
        self.optimizer.zero_grad()
        batches, parts, data_time = [], [], 0.0
        for number in range(self.accumulate):
            start = time.perf_counter()
            batches.append(self._next_batch())
            data_time += time.perf_counter() - start
            with self._gradients_sent(number == self.accumulate - 1):
                parts.append(self._losses(batches[-1]))
                loss = sum(parts[-1].values()) / self.accumulate
                self.grad_scaler.scale(loss).backward()
        self.after_backward()

        # After the backward pass, so that a GPU has work while we wait for the losses.
        self._record(_mean(parts), batches, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _next_batch(self):
        if self._iterated is not self.data_loader:
            self._batches, self._iterated = iter(self.data_loader), self.data_loader
        return next(self._batches)

    def _gradients_sent(self, sent: bool):
        """Context of a backward pass whose gradients go to the other processes, or wait."""
        if sent or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()

    def _losses(self, batch) -> dict[str, Tensor]:
        with torch.autocast(
            self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None
        ):
            try:
                losses = self.model(batch)
            except FloatingPointError as error:
                raise self._diverged(error, batch) from error
        return {"total_loss": losses} if isinstance(losses, Tensor) else losses

    def _diverged(self, error: FloatingPointError, batch) -> NonFiniteLossError:
        text = " ".join(str(error).split()).rstrip(".")
        refusal = NonFiniteLossError(
            f"At iteration {self.iter} the model gave no loss ({text}). "
            + _advice(_image_names([batch]), self.optimizer.param_groups[0]["lr"])
        )
        refusal.on_all_ranks = False  # the others wait for this process's gradients
        return refusal

    def _record(self, losses: dict[str, Tensor], batches: list, data_time: float) -> None:
        """Put losses (means over processes) and the data time (maximum) into the event storage.

        In one transfer from the device, and one exchange between processes.
        """
        values = torch.stack([loss.detach().float().reshape(()) for loss in losses.values()])
        processes = _gather(torch.cat([values, values.new_tensor([data_time])]))
        if not all(math.isfinite(value) for process in processes for value in process):
            mine = dict(zip(losses, processes[comm.get_rank()], strict=False))
            reports = comm.all_gather((mine, _image_names(batches)))
            raise NonFiniteLossError(
                _describe_non_finite(self.iter, reports, self.optimizer.param_groups[0]["lr"])
            )
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=self.iter)
        if not comm.is_main_process():
            return
        *columns, data_times = zip(*processes, strict=True)
        means = {n: sum(c) / len(c) for n, c in zip(losses, columns, strict=True)}
        storage.put_scalar("data_time", max(data_times), cur_iter=self.iter)
        storage.put_scalar("total_loss", sum(means.values()), cur_iter=self.iter)
        if len(means) > 1:
            storage.put_scalars(cur_iter=self.iter, **means)

    def state_dict(self) -> dict:
        """That of `SimpleTrainer`, and the gradient scaler's where there is one."""
        state = super().state_dict()
        if self.grad_scaler.is_enabled():
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """Inverse of `state_dict`; a run in another precision starts with a fresh scaler."""
        super().load_state_dict(state_dict)
        if self.grad_scaler.is_enabled() and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def _gather(values: Tensor) -> list[list[float]]:
    """One-dimensional tensors of all processes, as numbers."""
    if comm.get_world_size() == 1:
        return [values.tolist()]
    everyone = [torch.empty_like(values) for _ in range(comm.get_world_size())]
    dist.all_gather(everyone, values)
    return torch.stack(everyone).tolist()


def _mean(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Losses averaged over the batches of an iteration, without their graphs."""
    if len(parts) == 1:
        return parts[0]
    return {name: torch.stack([part[name].detach() for part in parts]).mean() for name in parts[0]}


def _image_names(batches: list) -> list[str]:
    images = [image for batch in batches if isinstance(batch, (list, tuple)) for image in batch]
    return [str(image["file_name"]) for image in images if "file_name" in image]


def _describe_non_finite(iteration: int, reports: list, lr: float) -> str:
    """Text of the error from every process's (losses, image names)."""
    bad, fine, images = {}, {}, []
    for losses, names in reports:
        wrong = {name: value for name, value in losses.items() if not math.isfinite(value)}
        if wrong:
            bad.update(wrong)
            fine.update(losses)
            images.extend(names)
    others = ", ".join(f"{name} {value:.4g}" for name, value in fine.items() if name not in bad)
    return (
        f"At iteration {iteration} {', '.join(f'{name} is {v}' for name, v in bad.items())}"
        f"{f' (the other losses: {others})' if others else ''}. " + _advice(images, lr)
    )


def _advice(images: list[str], lr: float) -> str:
    return (
        f"Images of this batch: {', '.join(images) or 'the loader gives no file_name'}. "
        "No parameter was updated by this step. The rate is often too high "
        f"({lr:.3g} now): try a lower optimizer.lr or a longer warm-up; with train.amp.enabled "
        "also train.amp.dtype=bfloat16. If it is always the same images, look at their labels "
        "with tools/visualize_data.py. Training goes on from the last checkpoint with --resume"
    )


@contextmanager
def _no_traceback_of_user_errors() -> Iterator[None]:
    """Keep Detectron2's loop from logging the traceback of an error that explains itself."""

    def drop(record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], LVTError))

    logger = logging.getLogger("detectron2.engine.train_loop")
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)
