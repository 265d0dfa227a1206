"""The part of Detectron2's API that this project needs, on pip-installable packages only."""

from detectron2._scope import missing_attribute
from detectron2.utils.env import setup_environment

setup_environment()

__version__ = "0.6+d2lite.1"

__getattr__ = missing_attribute(__name__)
