"""Reading of pickled checkpoints without running what is pickled in them."""

import collections
import io
import pickle
import re

import numpy as np
import torch


def _torch_storage(data: bytes):
    return torch.load(io.BytesIO(data), weights_only=True)


def _numpy_internals() -> dict[tuple[str, str], object]:
    """How NumPy pickles arrays, scalars and types, under the old and new names of its modules."""
    try:
        from numpy._core import multiarray, numeric
    except ImportError:  # NumPy 1
        from numpy.core import multiarray, numeric
    found: dict[tuple[str, str], object] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }
    for package in ("numpy.core", "numpy._core"):
        for name in ("_reconstruct", "scalar"):
            found[f"{package}.multiarray", name] = getattr(multiarray, name)
        found[f"{package}.numeric", "_frombuffer"] = numeric._frombuffer
    return found


_HARMLESS: dict[tuple[str, str], object] = {
    **_numpy_internals(),
    ("_codecs", "encode"): lambda text, encoding="latin1": str(text).encode(encoding),
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    ("collections", "Counter"): collections.Counter,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch.storage", "_load_from_bytes"): _torch_storage,
    ("torch", "Size"): torch.Size,
    **{
        (module, name): {"list": list, "dict": dict, "set": set, "int": int, "float": float}[name]
        for module in ("builtins", "__builtin__")
        for name in ("list", "dict", "set", "int", "float")
    },
}
_REFUSAL = (
    "{path} holds {what}, which is more than tensors, NumPy arrays and plain containers. Reading "
    "it could run code that its author chose. If you trust the file, read it yourself, keep its "
    "weights, and save those with torch.save(state_dict)"
)


class _ArraysOnly(pickle.Unpickler):
    """Unpickler that knows arrays, tensors and plain containers, and refuses all else."""

    def find_class(self, module, name):
        if (module, name) in _HARMLESS:
            return _HARMLESS[module, name]
        if module == "numpy.dtypes" or (module == "torch" and name.endswith("Storage")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


def load_pickle(path, file) -> object:
    """Content of a pickle of arrays, Python 2's included.

    Raises:
        pickle.UnpicklingError: it holds anything else; the message names what.
    """
    try:
        return _ArraysOnly(file, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise pickle.UnpicklingError(_REFUSAL.format(path=path, what=error)) from None


def _allow_numpy_in_torch() -> None:
    known = _numpy_internals()
    kinds = [type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "u1", "?")]
    named = [(what, f"{module}.{name}") for (module, name), what in known.items()]
    # Before 2.6 PyTorch takes no names, so only files of the installed NumPy's age can be read.
    by_name = tuple(int(n) for n in torch.__version__.split(".")[:2]) >= (2, 6)
    torch.serialization.add_safe_globals([*(named if by_name else set(known.values())), *kinds])


_allow_numpy_in_torch()


def load_torch(path, file=None) -> object:
    """Content of a ``torch.save`` file on the CPU; NumPy's arrays and scalars may be in it.

    Raises:
        pickle.UnpicklingError: it holds anything else; the message names what.
    """
    try:
        return torch.load(path if file is None else file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise
        text = _REFUSAL.format(path=path, what=found.group(1))
        raise pickle.UnpicklingError(text) from error
