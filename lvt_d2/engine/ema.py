"""An exponential moving average of the weights, by PyTorch's own implementation."""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def build_ema(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of the model whose weights and buffers follow the model's, slowly.

    ``update_parameters(model)`` after each iteration moves it by ``1 - decay`` of the difference;
    the first one copies. ``module`` is the averaged model.

    Args:
        model: on its device, not wrapped for several processes.
        decay: share of the old average that stays, 0..1; 0.9999 averages over about 10,000
            iterations.
    """
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    return averaged.requires_grad_(False)
