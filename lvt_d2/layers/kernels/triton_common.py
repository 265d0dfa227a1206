"""What the Triton kernels share.

The kernels are tested in Triton's interpreter against the layers, and compiled for GPUs. How fast
they run on one has not been measured: their tiles follow from the registers and the shared memory
that the compiled code takes, not from tuning.

Tiles are fixed, so no shape sets off an autotuning run. Channels are compile-time constants, of
which a network has a few; sizes of maps and batches are arguments that no kernel is specialised on,
so new image sizes compile nothing.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_CHANNELS = 128  # a kernel holds all channels of a tile's tokens on the chip
# Inside an image kernels count in 32 bits, of up to 9/4 as many numbers (windows' outputs) or 16
# times as many (hidden channels).
MAX_IMAGE = 2**27


@triton.jit
def silu(x):
    """``x * sigmoid(x)``."""
    return x / (1 + tl.exp(-x))


@triton.jit
def silu_slope(x):
    """Derivative of `silu`."""
    sigmoid = 1 / (1 + tl.exp(-x))
    return sigmoid * (1 + x * (1 - sigmoid))


@triton.jit
def gelu(x):
    """``x * Phi(x)`` with the exact normal distribution function."""
    return 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))


@triton.jit
def gelu_slope(x):
    """Derivative of `gelu`."""
    return 0.5 * (1 + tl.erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * tl.exp(
        -0.5 * x * x
    )


# Decided by TRITON_INTERPRET when Triton was imported: kernels are Python that takes CPU tensors.
INTERPRETED = not isinstance(gelu, triton.runtime.JITFunction)
_INTERPRETED = tl.constexpr(INTERPRETED)


@triton.jit
def product(a, b):
    """``a @ b`` summed in float32; float32 factors are not rounded to TensorFloat-32."""
    if _INTERPRETED:
        # The interpreter multiplies the bits of bfloat16 as if they were integers.
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


def on_device(x: Tensor) -> AbstractContextManager:
    """Context in which kernels start on the tensor's own GPU, whichever is the current one."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def padded(channels: int) -> int:
    """Tile width for some channels: the next power of two, since `tl.arange` takes nothing else."""
    return triton.next_power_of_2(channels)


def wrong_channels(C: int) -> str | None:
    """Why a kernel that holds C channels on the chip can't run; None if it can."""
    if C % 16 == 0 and C <= MAX_CHANNELS:
        return None
    return f"{C} channels; the Triton kernel takes multiples of 16 up to {MAX_CHANNELS}"


def splits(tiles: int, programs: int) -> int:
    """Programs along one axis of the grid among which a sum over tiles is divided.

    Args:
        tiles: how many there are.
        programs: 512 over all axes of the grid fill a large GPU; more only make more partial sums.
    """
    return max(1, min(tiles, programs))
