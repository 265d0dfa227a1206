"""States of the random number generators: kept, given back, and derived from a few numbers."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def get_random_states() -> dict:
    """States of Python's, NumPy's and PyTorch's global generators, and this process's GPU's.

    They hold numbers and tensors alone, which a checkpoint can be read back with safely.
    """
    numpy_state = np.random.get_state(legacy=False)
    states = {
        "python": random.getstate(),
        "numpy": {
            **numpy_state,
            "state": {
                "key": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
                "pos": int(numpy_state["state"]["pos"]),
            },
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: dict) -> None:
    """Inverse of `get_random_states`; a GPU's state is dropped where no GPU is in use."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    numpy_state = dict(states["numpy"])
    key = numpy_state["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state({**numpy_state, "state": {**numpy_state["state"], "key": key}})
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(states["cuda"])


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Give the generators back as they were found, whatever the block draws."""
    states = get_random_states()
    try:
        yield
    finally:
        set_random_states(states)


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Within the block the CPU's generators follow from these numbers (0 or more) alone."""
    words = np.random.SeedSequence(numbers).generate_state(3)
    with random_states_kept():
        random.seed(int(words[0]))
        np.random.seed(words[1])
        torch.random.default_generator.manual_seed(int(words[2]))
        yield
