"""Global tables from a data set's name to its loader and to what is known about its classes."""

import types
from collections import UserDict
from collections.abc import Callable
from typing import Any

__all__ = ["DatasetCatalog", "MetadataCatalog", "Metadata"]


class _Catalog(UserDict):
    """Maps names to entries; see the subclasses for what ``get`` returns."""

    def list(self) -> list[str]:
        return [*self]

    def remove(self, name: str) -> None:
        self.pop(name)

    def __str__(self) -> str:
        return f"{type(self).__name__[1:]}({self._contents}: {', '.join(self)})"

    __repr__ = __str__


class _DatasetCatalog(_Catalog):
    """Maps a name to a function without arguments that returns ``list[dict]`` or a Dataset.

    The function must return the same data in the same order every time it is called.
    """

    _contents = "registered datasets"

    def register(self, name: str, func: Callable[[], Any]) -> None:
        """Add a loader under a new name.

        Raises:
            AssertionError: ``func`` can't be called, or the name is taken.
        """
        assert callable(func), "You must register a function with `DatasetCatalog.register`!"
        assert name not in self, f"Dataset '{name}' is already registered!"
        self[name] = func

    def get(self, name: str) -> Any:
        """Call the loader registered under ``name`` and return its data.

        Raises:
            KeyError: no such name; the message lists those that exist.
        """
        if name not in self:
            names = ", ".join(self)
            raise KeyError(f"Dataset '{name}' is not registered! Available datasets are: {names}")
        return self[name]()


DatasetCatalog = _DatasetCatalog()


class Metadata(types.SimpleNamespace):
    """Attributes of one data set, e.g. class names. One that is set can't change any more.

    Catalog users rely on a name meaning the same all through a run, so setting an attribute
    to a different value raises an AssertionError; setting the same value again is fine.
    """

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        # "name" alone means that nobody has described this data set yet.
        keys = [*vars(self)]
        known = f"Available keys are {keys}" if len(keys) > 1 else "metadata is empty"
        message = f"Attribute '{key}' does not exist in the metadata of dataset '{self.name}'"
        raise AttributeError(f"{message}. {known}.")

    def __setattr__(self, key: str, val: Any) -> None:
        if not hasattr(self, key):
            return super().__setattr__(key, val)
        old, what = getattr(self, key), f"Attribute '{key}' in the metadata of '{self.name}'"
        assert old == val, f"{what} cannot be set to a different value!\n{old} != {val}"

    def as_dict(self) -> dict[str, Any]:
        """Shallow copy: changing it leaves the metadata alone."""
        return dict(self.__dict__)

    def set(self, **kwargs: Any) -> "Metadata":
        """Set several attributes; returns itself, so calls can be chained."""
        for key, val in kwargs.items():
            setattr(self, key, val)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        return getattr(self, key, default)


class _MetadataCatalog(_Catalog):
    """Maps a name to its only ``Metadata``, made empty when it is asked for the first time."""

    _contents = "registered metadata"

    def get(self, name: str) -> Metadata:
        assert len(name), "A dataset's name can't be empty."
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]


MetadataCatalog = _MetadataCatalog()
