"""A pickle reader that runs nothing a file asks for.

A pickle is a program: it names callables and says what to call them with. Here every name is looked
up in ``_SAFE``, whose entries only build plain data, and any other name becomes a class of inert
stand-ins that keep what the file puts into them. Classes and functions of this process are never
handed to the file bare, since a pickle can also set attributes of what it is given.
"""

import argparse
import codecs
import collections
import datetime
import pathlib
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

# No checkpoint has a reason to name these: a file that does was made to run commands.
_HOSTILE_MODULES = set(
    "_posixsubprocess code commands ctypes importlib marshal nt os posix pty runpy shutil socket "
    "subprocess sys webbrowser".split()
)
_HOSTILE_FUNCTIONS = set(
    "builtins.__import__ builtins.breakpoint builtins.compile builtins.eval builtins.exec "
    "builtins.execfile builtins.open io.open _io.open".split()
)


class StandIn:
    """Takes the place of an object whose class is not loaded: keeps its data, does nothing.

    Attributes:
        args: what the file called the class with.
        items: what it appended, added, or set as key and value.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> "StandIn":
        self = super().__new__(cls)
        self.args, self.items = (*args, *kwargs.items()), []
        return self

    def __call__(self, *args: Any) -> "StandIn":
        return type(self)(*args)  # as a method would be that `getattr` had looked up

    def append(self, item: Any) -> None:
        self.items.append(item)

    add = append

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def __repr__(self) -> str:
        return f"<stand-in for a {type(self).__module__}.{type(self).__qualname__}>"


class InertUnpickler(pickle.Unpickler):
    """Reads one pickle; the names it would not load are in ``unknown`` afterwards.

    Raises:
        pickle.UnpicklingError: the pickle names something that only an attack has a use for, or
            holds a kind of array that can't be rebuilt safely.
    """

    def __init__(self, file: Any, **kwargs: Any):
        super().__init__(file, **kwargs)
        self.unknown: dict[str, type[StandIn]] = {}

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        full_name = f"{module}.{name}"
        if full_name in _SAFE:
            return _Call(_SAFE[full_name])
        if full_name == "argparse.Namespace":
            return type("Namespace", (argparse.Namespace,), {})  # one of its own for every file
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if full_name in _HOSTILE_FUNCTIONS or module.split(".")[0] in _HOSTILE_MODULES:
            raise pickle.UnpicklingError(f"it would call {full_name} when opened the usual way")
        if full_name not in self.unknown:
            names = {"__module__": module, "__qualname__": name}
            self.unknown[full_name] = type(name, (StandIn,), names)
        return self.unknown[full_name]


class InertPickle:
    """What ``torch.load`` takes as ``pickle_module``: pickle's interface over ``InertUnpickler``.

    Attributes:
        unknown: full names of the classes that became stand-ins, over all pickles of the file.
    """

    __name__ = "lvt_d2.checkpoint.inert_pickle"

    def __init__(self):
        self.unknown: set[str] = set()
        unknown = self.unknown

        class Unpickler(InertUnpickler):
            def load(self) -> Any:
                try:
                    return super().load()
                finally:
                    unknown.update(self.unknown)

        self.Unpickler = Unpickler

    def load(self, file: Any, **kwargs: Any) -> Any:
        return self.Unpickler(file, **kwargs).load()


class _Call:
    """A callable that offers a pickle nothing but the call."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable):
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"it sets {name} of a function")


class _DType:
    """A numpy dtype in the making; numpy's own trusts the state that a file gives it."""

    def __init__(self, name: str, align: bool = False, copy: bool = False):
        if not re.fullmatch(r"\?|[biufcSU]\d+", str(name)):
            raise pickle.UnpicklingError(f"it holds a numpy array of type {name!r}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder({"<": "<", ">": ">", "|": "|", "=": "="}[state[1]])


class _Array(np.ndarray):
    """A numpy array that takes its state only with a dtype that was checked."""

    def __setstate__(self, state: tuple) -> None:
        version, shape, dtype, fortran, data = state
        super().__setstate__((version, shape, _checked(dtype), fortran, data))


def _checked(dtype: Any) -> np.dtype:
    if type(dtype) is not _DType:
        raise pickle.UnpicklingError(f"it holds a numpy array of type {dtype!r}")
    return dtype.dtype


def _new_array(*_: Any) -> np.ndarray:
    return np.empty(0, np.int8).view(_Array)


def _array_of(data: Any, dtype: _DType, shape: tuple, order: str) -> np.ndarray:
    return np.frombuffer(data, _checked(dtype)).reshape(shape, order=order).copy(order)


def _scalar(dtype: _DType, data: bytes) -> Any:
    return np.frombuffer(data, _checked(dtype), count=1)[0]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if codecs.lookup(encoding).name != "iso8859-1":  # the one that protocol 2 uses for bytes
        raise pickle.UnpicklingError(f"it encodes text as {encoding}")
    return text.encode("latin1")


def _default_dict(factory: Any = None) -> collections.defaultdict:
    return collections.defaultdict(getattr(factory, "_function", None))


def _path(*parts: str) -> pathlib.PurePath:
    return pathlib.PurePosixPath(*map(str, parts))


def _not_called(*_: Any) -> None:
    raise pickle.UnpicklingError("it calls what is only an argument elsewhere")


_SAFE: dict[str, Callable] = {
    **{
        f"torch._utils.{f.__name__}": f
        for f in (
            torch._utils._rebuild_tensor,
            torch._utils._rebuild_tensor_v2,
            torch._utils._rebuild_parameter,
        )
    },
    "torch.Size": torch.Size,
    "torch.device": torch.device,
    "collections.OrderedDict": collections.OrderedDict,
    "collections.Counter": collections.Counter,
    "collections.defaultdict": _default_dict,
    **{
        f"builtins.{t.__name__}": t
        for t in (bool, bytearray, bytes, complex, dict, float, frozenset, int, list, set)
        + (slice, str, tuple)
    },
    "_codecs.encode": _encode,
    **{
        f"datetime.{t.__name__}": t
        for t in (datetime.date, datetime.datetime, datetime.time)
        + (datetime.timedelta, datetime.timezone)
    },
    **{
        f"{module}.{name}": _path
        for module in ("pathlib", "pathlib._local")
        for name in ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath")
        + ("WindowsPath",)
    },
    "numpy.dtype": _DType,
    "numpy.ndarray": _not_called,
    **{
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")
        for name, function in (
            ("multiarray._reconstruct", _new_array),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _array_of),
        )
    },
}
