"""A hook of one's own: clips the gradients, and records how large they were."""

from detectron2.engine import HookBase
from torch.nn.utils import clip_grad_norm_


class GradientNorm(HookBase):
    """Records ``grad_norm`` before clipping, and ``largest_grad_norm`` of the whole training.

    Not for float16 mixed precision, whose gradients are scaled; bfloat16's are not.

    Args:
        most: norm of all gradients together that a step may have.
    """

    def __init__(self, most: float):
        self.most = most
        self.largest = 0.0

    def after_backward(self) -> None:
        """Runs between the backward pass and the optimizer's step."""
        norm = float(clip_grad_norm_(self.trainer.model.parameters(), self.most))
        self.largest = max(self.largest, norm)
        self.trainer.storage.put_scalars(
            smoothing_hint=False, grad_norm=norm, largest_grad_norm=self.largest
        )

    def state_dict(self) -> dict:
        """Goes into the checkpoints, and comes back with ``--resume``."""
        return {"largest": self.largest}

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`."""
        self.largest = state["largest"]
