"""Object proposals."""

# ruff: noqa: F401
from detectron2 import _scope

from .build import PROPOSAL_GENERATOR_REGISTRY, build_proposal_generator
from .rpn import RPN, RPN_HEAD_REGISTRY, StandardRPNHead, build_rpn_head

__getattr__ = _scope.missing_attribute(__name__)
