"""Configuration: LazyConfig (Python files) and yacs (YAML files)."""

from detectron2._scope import missing_attribute
from detectron2.config.config import CfgNode, configurable, get_cfg, global_cfg, set_global_cfg
from detectron2.config.instantiate import instantiate
from detectron2.config.lazy import LazyCall, LazyConfig

__all__ = ["CfgNode", "LazyCall", "LazyConfig", "configurable", "get_cfg", "global_cfg"]
__all__ += ["instantiate", "set_global_cfg"]

__getattr__ = missing_attribute(__name__)
