"""The common LazyConfigs; models with trained weights are Detectron2's own."""

from detectron2._scope import missing_attribute
from detectron2.model_zoo.model_zoo import get, get_checkpoint_url, get_config, get_config_file

__all__ = ["get_checkpoint_url", "get", "get_config_file", "get_config"]

__getattr__ = missing_attribute(__name__)
