"""A number that loader workers count up together."""

import multiprocessing
import pickle
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import ForkingPickler


class SharedCounter:
    """Counts over this process and all workers started from it, by fork or by spawn.

    A copy or a pickle that is not on its way to a new process counts for itself, from the value
    that it was made with.

    Args:
        value: what to start with.
    """

    def __init__(self, value: int = 0):
        # Locks made for fork can't be sent to spawned processes; those for spawn can be inherited.
        self._value = multiprocessing.get_context("spawn").Value("q", value)

    @property
    def value(self) -> int:
        """The count so far."""
        return self._value.value

    def increment(self) -> int:
        """Add 1, and return the count."""
        with self._value.get_lock():
            self._value.value += 1
            return self._value.value

    def __reduce__(self):
        if get_spawning_popen() is None:
            return SharedCounter, (self.value,)
        # Detectron2 pickles mappers with cloudpickle, which can't send shared memory.
        return _received, (bytes(ForkingPickler.dumps(self._value)),)


def _received(sent: bytes) -> SharedCounter:
    counter = SharedCounter.__new__(SharedCounter)
    counter._value = pickle.loads(sent)
    return counter
