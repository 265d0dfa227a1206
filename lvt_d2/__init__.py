"""LVT for Detectron2. Importing this package decides what answers to ``import detectron2``."""

import logging
import sys
import warnings

from lvt_d2._after_import import after_import
from lvt_d2._engine import activate

# Libraries below us (fvcore) script functions as they are imported; no user can change that.
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is depr", FutureWarning, r"torch\.jit")

__version__ = "0.1.0"


def _doctor_is_called() -> bool:
    """Whether this is ``python -m lvt_d2.doctor``, which reports itself what is wrong here."""
    modules = (argument.removeprefix("-m") for argument in sys.orig_argv[1:])
    return sys.argv[:1] == ["-m"] and any(m.startswith("lvt_d2.doctor") for m in modules)


try:
    ENGINE: str = activate()
    """``"detectron2"`` or ``"d2lite"``: the engine that runs in this process."""
except (ImportError, ValueError):
    if not _doctor_is_called():
        raise
    ENGINE = "none"


def _register_in_timm() -> None:
    """Make ``timm.create_model("lvt_cls")`` work."""
    try:
        import lvt_d2.timm_models  # noqa: F401
    except ImportError:
        logging.getLogger(__name__).warning("LVT is not registered in this timm", exc_info=True)


after_import("timm", _register_in_timm)

__all__ = ["ENGINE", "__version__"]
