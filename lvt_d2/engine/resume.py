"""What a checkpoint has beside model and optimizer, so that a resumed run equals a straight one."""

import logging
import os

import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm

from lvt_d2.checkpoint import AtomicCheckpointer
from lvt_d2.randomness import get_random_states, set_random_states

logger = logging.getLogger(__name__)


class Checkpoints(hooks.PeriodicCheckpointer):
    """Detectron2's `PeriodicCheckpointer`, whose files also hold where every process stands.

    These are the states of the random number generators and of the data loader, if that has
    ``state_dict`` and ``load_state_dict`` (as `TrainLoader` and torchdata's do), and the list of
    files that ``max_to_keep`` counts. To be registered on all processes, after all that has a state
    of its own to save and before evaluation; the main process writes.

    Args:
        checkpointer: of model and trainer.
        period: iterations between two checkpoints; there is another one at the end.
        max_to_keep: of the periodic ones; None keeps all.
    """

    def __init__(
        self, checkpointer: AtomicCheckpointer, period: int, max_to_keep: int | None = None
    ):
        super().__init__(checkpointer, period, max_to_keep=max_to_keep)
        self._processes: list[dict] = []  # on the main process: states of all
        self._to_restore: dict | None = None
        self._saved_at: int | None = None

    def before_step(self) -> None:
        """Restore the generators where nothing can draw from them any more but the training."""
        if self._to_restore is not None:
            set_random_states(self._to_restore)
            self._to_restore = None

    def after_step(self) -> None:
        """Save where it is time to."""
        if not self._is_periodic() and self.trainer.iter + 1 < self.max_iter:
            return
        self._processes = comm.gather(self._own_state()) or []
        if comm.is_main_process():
            self.step(self.trainer.iter)
        self._saved_at = self.trainer.iter

    def save_again(self) -> None:
        """Replace the checkpoint of this iteration, if it has one: an evaluation has been added."""
        if self._saved_at != self.trainer.iter or not comm.is_main_process():
            return
        if self._is_periodic():
            self.checkpointer.save(self._name(), iteration=self.trainer.iter)

    def _is_periodic(self) -> bool:
        return (self.trainer.iter + 1) % self.period == 0

    def _name(self) -> str:
        return f"{self.file_prefix}_{self.trainer.iter:07d}"

    def _own_state(self) -> dict:
        state = {"random": get_random_states()}
        loader = self.trainer.data_loader
        if hasattr(loader, "state_dict"):
            state["loader"] = loader.state_dict()
        return state

    def state_dict(self) -> dict:
        """States of all processes, and the names of the files that `max_to_keep` counts."""
        kept = [os.path.basename(path) for path in self.recent_checkpoints]
        own = f"{self._name()}.pth"
        if self.max_to_keep is not None and self._is_periodic() and own not in kept:
            kept.append(own)  # the parent lists it once it is written
        return {"kept": kept, "processes": self._processes}

    def load_state_dict(self, state: dict) -> None:
        """Restore this process's part; the generators follow when training starts."""
        self._restore_kept(state["kept"])
        processes, rank = state["processes"], comm.get_rank()
        if len(processes) != comm.get_world_size():
            logger.warning(
                "The checkpoint was saved by %d processes and is resumed by %d: batches and random "
                "numbers are others than in an uninterrupted training",
                len(processes),
                comm.get_world_size(),
            )
        if rank < len(processes):
            self._to_restore = processes[rank]["random"]
        loader_state = processes[rank if rank < len(processes) else 0].get("loader")
        loader = self.trainer.data_loader
        if loader_state is not None and hasattr(loader, "load_state_dict"):
            loader.load_state_dict(loader_state)
        else:
            logger.warning(
                "dataloader.train (%s) can't tell where it is: it starts over, with images that "
                "may have been seen already. lvt_d2.data.build_train_loader's can",
                type(loader).__name__,
            )

    def _restore_kept(self, names: list[str]) -> None:
        folder = self.checkpointer.save_dir
        self.recent_checkpoints = [os.path.join(folder, name) for name in names]
        if self.max_to_keep is None or not comm.is_main_process():
            return
        # Killed between saving and deleting, or with a smaller number now.
        while len(self.recent_checkpoints) > self.max_to_keep:
            old = self.recent_checkpoints.pop(0)
            if self.path_manager.exists(old):
                self.path_manager.rm(old)


class EventHistory(HookBase):
    """Keeps the scalars of training over a restart: medians, and what was recorded last.

    Args:
        window: values kept of every scalar; as many as anything looks back.
    """

    def __init__(self, window: int = 1000):
        self._window = window
        self._restored: dict = {}

    def before_train(self) -> None:
        """Put the scalars into the new storage."""
        for name, scalar in self._restored.items():
            pairs = zip(scalar["values"].tolist(), scalar["iterations"].tolist(), strict=True)
            for value, iteration in pairs:
                self.trainer.storage.put_scalar(
                    name, value, smoothing_hint=scalar["smooth"], cur_iter=iteration
                )
        self._restored = {}

    def state_dict(self) -> dict:
        """The last values of every scalar."""
        storage = getattr(self.trainer, "storage", None)  # there once training has begun
        if storage is None:
            return {}
        hints = storage.smoothing_hints()
        state = {}
        for name, history in storage.histories().items():
            pairs = history.values()[-self._window :]
            state[name] = {
                "values": torch.tensor([value for value, _ in pairs], dtype=torch.float64),
                "iterations": torch.tensor([step for _, step in pairs], dtype=torch.int64),
                "smooth": hints[name],
            }
        return state

    def load_state_dict(self, state: dict) -> None:
        """Keep the scalars until training begins; they are the main process's."""
        if comm.is_main_process():
            self._restored = state
