"""Fast code behind the layers. `choice` decides what runs; the layers' own code is the reference.

The paths give the same outputs and gradients as the reference, to rounding (2e-5 in float32):

    reference   the layers as they read; also what is compiled, exported, scripted and traced
    eager       the same sums in another order, in plain PyTorch: chunks that stay in the cache on
                the CPU, and backward passes that recompute what is cheap instead of storing it
    triton      fused kernels for GPUs (compute capability 7.0 or more) in float32, float16 and
                bfloat16; CSA and the first stage's MLP with up to 128 channels. Tested in
                Triton's interpreter: how fast they run on a GPU has not been measured

``auto``, the default, takes triton on GPUs that can run it, and eager elsewhere.
"""

from lvt_d2.layers.kernels.base import FastLayer
from lvt_d2.layers.kernels.choice import fast_path, kernels_in_use, use_kernels

__all__ = ["FastLayer", "fast_path", "kernels_in_use", "use_kernels"]
