"""A layer that fast code may compute."""

import torch
from torch import Tensor, nn

from lvt_d2.layers.kernels.choice import fast_path


class FastLayer(nn.Module):
    """A layer with a readable ``reference`` and fast code of the same results."""

    operation = ""  # its name in `choice`

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            fast = fast_path(self.operation, x)
            if fast is not None:
                return fast(self, x)
        return self.reference(x)

    def reference(self, x: Tensor) -> Tensor:
        """The layer as it reads."""
        raise NotImplementedError
