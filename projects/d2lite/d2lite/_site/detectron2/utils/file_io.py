"""The path manager that all reading and writing goes through."""

from iopath.common.file_io import HTTPURLHandler, PathHandler, PathManager as PathManagerBase

__all__ = ["PathManager", "PathHandler"]

PathManager = PathManagerBase()
"""Project-wide manager: register handlers of further prefixes with its ``register_handler``."""


class Detectron2Handler(PathHandler):
    """Refuses the prefixes that stand for Detectron2's own downloads."""

    def _get_supported_prefixes(self):
        return ["detectron2://", "catalog://"]

    def _open(self, path, *args, **kwargs):
        raise FileNotFoundError(
            f"{path} is a download of Detectron2, which d2lite doesn't fetch: get the file "
            "yourself and give its local path, or install detectron2"
        )

    _get_local_path = _open

    def _exists(self, path, **kwargs):
        return False

    _isfile = _isdir = _exists


PathManager.register_handler(HTTPURLHandler())
PathManager.register_handler(Detectron2Handler())
