"""Evaluation on the way, the best weights, and neither lost when training is interrupted."""

import logging
import math
from collections.abc import Callable

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

logger = logging.getLogger(__name__)

BEST = "model_best"


class Evaluation(HookBase):
    """Detectron2's `EvalHook` and `BestCheckpointer` in one that remembers where it was.

    An evaluation that training was killed in is made up for when it is resumed. To be registered
    on all processes, after the checkpoints: a failure in here loses nothing.

    Args:
        period: iterations between two evaluations; 0 for only one after training.
        evaluate: gives nested results by task on the main process; all processes call it.
        best_saver: saves ``model_best.pth``; None to save none.
        metric: that decides, as in metrics.json, such as ``"panoptic_seg/PQ"``.
        mode: ``"max"`` or ``"min"``.
        afterwards: called on all processes after an evaluation on the way.
    """

    def __init__(
        self,
        period: int,
        evaluate: Callable[[], dict],
        best_saver: DetectionCheckpointer | None = None,
        metric: str = "",
        mode: str = "max",
        afterwards: Callable[[], None] = lambda: None,
    ):
        self._period = period
        self._evaluate = evaluate
        self._best_saver = best_saver
        self._metric = metric
        self._sign = 1 if mode == "max" else -1
        self._afterwards = afterwards
        self.evaluated_iter: int | None = None
        self.best_metric: float | None = None
        self.best_iter: int | None = None

    def before_train(self) -> None:
        """Make up for an evaluation that the checkpoint does not know of."""
        last = self.trainer.start_iter - 1
        if self.trainer.start_iter > 0 and self._is_due(last) and self.evaluated_iter != last:
            self._run(last)

    def after_step(self) -> None:
        """Evaluate where it is time to; the last iteration's is left to `after_train`."""
        if self._is_due(self.trainer.iter):
            self._run(self.trainer.iter)
            self._afterwards()

    def after_train(self) -> None:
        """Evaluate, if training was not ended by an error."""
        if self.trainer.iter >= self.trainer.max_iter:
            self._run(self.trainer.max_iter)

    def _is_due(self, iteration: int) -> bool:
        done = iteration + 1
        return self._period > 0 and done % self._period == 0 and done < self.trainer.max_iter

    def _run(self, iteration: int) -> None:
        results = flatten_results_dict(self._evaluate())
        for name, value in results.items():
            self.trainer.storage.put_scalar(
                name, float(value), smoothing_hint=False, cur_iter=iteration
            )
        self.evaluated_iter = iteration
        if comm.is_main_process() and self._best_saver is not None:
            self._keep_best(results, iteration)
        comm.synchronize()  # processes may have had different numbers of images

    def _keep_best(self, results: dict, iteration: int) -> None:
        if self._metric not in results:
            logger.warning(
                "train.best_checkpointer.val_metric is %r, which the evaluation does not give; it "
                "gives %s",
                self._metric,
                ", ".join(results) or "nothing",
            )
            return
        value, before = float(results[self._metric]), self.best_metric
        if not math.isfinite(value):
            return
        if before is not None and self._sign * value <= self._sign * before:
            logger.info("%s is %.5g; %.5g was better", self._metric, value, before)
            return
        self.best_metric, self.best_iter = value, iteration
        self._best_saver.save(BEST, iteration=iteration, best={self._metric: value})
        logger.info("%s is %.5g, the best so far: saved as %s.pth", self._metric, value, BEST)

    def state_dict(self) -> dict:
        """The last evaluation and the best one, by iteration."""
        return {
            "evaluated_iter": self.evaluated_iter,
            "best_metric": self.best_metric,
            "best_iter": self.best_iter,
        }

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`."""
        self.evaluated_iter = state["evaluated_iter"]
        self.best_metric = state["best_metric"]
        self.best_iter = state["best_iter"]
