"""LVT for Detectron2. Importing this package decides what answers to ``import detectron2``."""

import warnings

from lvt_d2._engine import activate

# Libraries below us (fvcore) script functions as they are imported; no user can change that.
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is depr", FutureWarning, r"torch\.jit")

__version__ = "0.1.0"

ENGINE: str = activate()
"""``"detectron2"`` or ``"d2lite"``: the engine that runs in this process."""

__all__ = ["ENGINE", "__version__"]
