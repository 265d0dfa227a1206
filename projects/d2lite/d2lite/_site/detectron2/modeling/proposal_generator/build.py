"""Proposal generators by name."""

from detectron2.utils.registry import Registry

# Callables of (cfg, input_shape: dict[str, ShapeSpec]) that return a module which maps images and
# features to proposals and losses.
PROPOSAL_GENERATOR_REGISTRY = Registry("PROPOSAL_GENERATOR")


def build_proposal_generator(cfg, input_shape):
    """Build ``cfg.MODEL.PROPOSAL_GENERATOR.NAME``; None for ``"PrecomputedProposals"``."""
    name = cfg.MODEL.PROPOSAL_GENERATOR.NAME
    if name == "PrecomputedProposals":
        return None
    return PROPOSAL_GENERATOR_REGISTRY.get(name)(cfg, input_shape)
