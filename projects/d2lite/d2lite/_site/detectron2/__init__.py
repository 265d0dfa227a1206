"""d2lite: an independent implementation of the part of Detectron2's API that LVT needs."""

__version__ = "0.6+d2lite.1"
