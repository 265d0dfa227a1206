"""Reading of pickled checkpoints without running what is pickled in them."""

import codecs
import io
import pickle
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import torch

try:
    from numpy._core import multiarray, numeric
except ImportError:  # NumPy 1
    from numpy.core import multiarray, numeric

# How NumPy pickles arrays and scalars, under the old and the new name of its modules.
_NUMPY = {"numpy.ndarray": np.ndarray, "numpy.dtype": np.dtype}
for _package in ("numpy.core", "numpy._core"):
    _NUMPY[f"{_package}.multiarray._reconstruct"] = multiarray._reconstruct
    _NUMPY[f"{_package}.multiarray.scalar"] = multiarray.scalar
    _NUMPY[f"{_package}.numeric._frombuffer"] = numeric._frombuffer

_PLAIN = (
    *(list, dict, set, int, float, OrderedDict, defaultdict, Counter, codecs.encode, torch.Size),
    *(torch._utils._rebuild_tensor_v2, torch._utils._rebuild_parameter),
)


def _load_storage(data: bytes):
    return torch.load(io.BytesIO(data), weights_only=True)


_HARMLESS = {f"{kind.__module__}.{kind.__name__}": kind for kind in _PLAIN} | _NUMPY
_HARMLESS["torch.storage._load_from_bytes"] = _load_storage


class _ArraysOnly(pickle.Unpickler):
    """Unpickler that knows arrays, tensors and plain containers, and refuses all else."""

    def find_class(self, module, name):
        full_name = f"{module}.{name}".replace("__builtin__.", "builtins.")  # of Python 2
        if full_name in _HARMLESS:
            return _HARMLESS[full_name]
        if module == "numpy.dtypes" or (module == "torch" and name.endswith("Storage")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(
            f"The file holds {full_name}, which is more than tensors, NumPy arrays and plain "
            "containers. Reading it could run code that its author chose. If you trust it, read "
            "it yourself, keep its weights, and save those with torch.save(state_dict)"
        )


def load_pickle(path) -> object:
    """Content of a pickle of arrays, Python 2's included.

    Raises:
        pickle.UnpicklingError: it holds anything else; the message names what.
    """
    with open(path, "rb") as file:
        return _ArraysOnly(file, encoding="latin1").load()


def load_torch(path) -> object:
    """Content of a ``torch.save`` file on the CPU; NumPy's arrays and scalars may be in it.

    Raises:
        pickle.UnpicklingError: it holds anything else; the message names what.
    """
    return torch.load(path, map_location="cpu", weights_only=True)


# Before 2.6 PyTorch takes no names, so only files of the installed NumPy's age can be read.
_named = torch.__version__ >= "2.6"
torch.serialization.add_safe_globals(
    [(what, name) if _named else what for name, what in _NUMPY.items()]
    + [type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "u1", "?")]
)
