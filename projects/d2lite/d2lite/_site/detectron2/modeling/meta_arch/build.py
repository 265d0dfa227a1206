"""Models by name."""

from detectron2.utils.registry import Registry

# Callables of (cfg) that return a whole model.
META_ARCH_REGISTRY = Registry("META_ARCH")


def build_model(cfg):
    """Build the model named ``cfg.MODEL.META_ARCHITECTURE`` on ``cfg.MODEL.DEVICE``.

    No weights are loaded: ``cfg.MODEL.WEIGHTS`` is the checkpointer's business.
    """
    return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg).to(cfg.MODEL.DEVICE)
