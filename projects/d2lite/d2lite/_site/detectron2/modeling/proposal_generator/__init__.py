"""Object proposals."""

# ruff: noqa: F401
from detectron2._scope import missing_attribute

from .build import PROPOSAL_GENERATOR_REGISTRY, build_proposal_generator
from .rpn import RPN, RPN_HEAD_REGISTRY, StandardRPNHead, build_rpn_head

__all__ = [name for name in globals() if not name.startswith("_") and name != "missing_attribute"]
__getattr__ = missing_attribute(__name__)
