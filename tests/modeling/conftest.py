"""Weights and images by rules, for numbers of our own where the recorded ones are not at hand."""

import numpy as np
import pytest
import torch

from lvt_d2.checkpoint.official import TABLES


@pytest.fixture(scope="session")
def rule_weights():
    """Function from a kind of official file and our model to a state dict in the official format.

    Every entry holds normal numbers that are seeded by its position in the file; those that our
    model has no use for hold nothing.
    """

    def make(kind: str, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        ours = model.state_dict()
        state = {}
        for i, (official, entry) in enumerate(TABLES[kind]().items()):
            if entry.name is None:
                state[official] = torch.zeros(0)
                continue
            shape = ours[entry.name].shape
            if official.endswith(".attn.weight.weight"):
                shape = (shape[0] * shape[1], shape[2], 1, 1)
            elif ".mlp.fc" in official and official.endswith("weight") and ".0.1." not in official:
                shape = (*shape, 1, 1)
            numbers = np.random.RandomState(i).standard_normal(shape)
            around_one = len(shape) == 1 and official.endswith(("weight", "running_var"))
            scale = 0.1 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5
            state[official] = torch.as_tensor(np.float32(around_one + scale * numbers))
        return state

    return make


@pytest.fixture(scope="session")
def rule_image():
    """Function from a height and a width to an image (1, 3, H, W) of normal numbers."""

    def make(height: int, width: int) -> torch.Tensor:
        numbers = np.random.RandomState(height).standard_normal((1, 3, height, width))
        return torch.from_numpy(np.float32(numbers))

    return make
