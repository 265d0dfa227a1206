"""The instances of one image, as a table whose columns are named by the user."""

import warnings
from typing import Any

import torch


class Instances:
    """Fields of the same length N (boxes, classes, masks, scores...) about one image.

    A field is an attribute: ``instances.gt_boxes = Boxes(...)``; names that start with ``_`` are
    plain attributes. Any type with a length can be a field; indexing, ``to`` and ``cat`` work on
    every field in turn.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any):
        """Start with the fields in ``kwargs``.

        Args:
            image_size: height and width in pixels.
            **kwargs: fields, by name.
        """
        self._image_size, self._fields = image_size, {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self._image_size

    def __setattr__(self, name: str, val: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, val)
        else:
            self.set(name, val)

    def __getattr__(self, name: str) -> Any:
        # While a copy or an unpickled object is being made, `_fields` isn't there yet.
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f"Cannot find field '{name}' in the given Instances!")
        return self._fields[name]

    def set(self, name: str, value: Any) -> None:
        """Add or replace a field.

        Raises:
            AssertionError: its length differs from that of the fields there.
        """
        with warnings.catch_warnings(record=True):  # tracing warns about every `len`
            # `len` makes an integer, which lengths that depend on values have none of in export.
            length = value.__len__() if torch.compiler.is_compiling() else len(value)
            expected = self.__len__() if self._fields else length
        lengths = f"length {length} to a Instances of length {expected}"
        assert expected == length, f"Adding a field of {lengths}"
        self._fields[name] = value

    def has(self, name: str) -> bool:
        return name in self._fields

    def remove(self, name: str) -> None:
        """Drop a field; KeyError where there is none of that name."""
        del self._fields[name]

    def get(self, name: str) -> Any:
        """Return a field; KeyError where there is none of that name."""
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """Return the dictionary of all fields itself, by name: changes to it are changes here."""
        return self._fields

    def _map(self, function) -> "Instances":
        result = Instances(self._image_size)
        for name, value in self._fields.items():
            result.set(name, function(value))
        return result

    def to(self, *args: Any, **kwargs: Any) -> "Instances":
        """New Instances, with ``to(...)`` called on every field that has it."""
        return self._map(lambda value: value.to(*args, **kwargs) if hasattr(value, "to") else value)

    def __getitem__(self, item: int | slice | torch.Tensor) -> "Instances":
        """New Instances by an integer (one instance), a slice, or a mask or index tensor.

        Raises:
            IndexError: an integer outside -N..N-1.
        """
        if type(item) is int:
            if not -len(self) <= item < len(self):
                raise IndexError("Instances index out of range!")
            item = slice(item, None, len(self))
        return self._map(lambda value: value[item])

    def __len__(self) -> int:
        for value in self._fields.values():
            # Unlike `len`, which makes an integer, this keeps a traced length in the graph.
            return value.__len__()
        raise NotImplementedError("Empty Instances does not support __len__!")

    def __iter__(self):
        raise NotImplementedError("`Instances` object is not iterable!")

    @staticmethod
    def cat(instance_lists: list["Instances"]) -> "Instances":
        """Join the instances of one image; a single element is returned as it is.

        Args:
            instance_lists: at least one Instances; all have the fields of the first.

        Raises:
            AssertionError: nothing to join, another type, or different image sizes.
            ValueError: a field that is neither a tensor nor a list nor has ``cat``.
        """
        assert all(isinstance(i, Instances) for i in instance_lists)
        assert len(instance_lists) > 0
        if len(instance_lists) == 1:
            return instance_lists[0]
        image_size = instance_lists[0].image_size
        if not isinstance(image_size, torch.Tensor):  # a tensor when traced
            assert all(i.image_size == image_size for i in instance_lists)
        result = Instances(image_size)
        for name in instance_lists[0]._fields:
            result.set(name, _cat_field([i.get(name) for i in instance_lists]))
        return result

    def __str__(self) -> str:
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        size = f"image_height={self._image_size[0]}, image_width={self._image_size[1]}"
        return f"{type(self).__name__}(num_instances={len(self)}, {size}, fields=[{fields}])"

    __repr__ = __str__


def _cat_field(values: list[Any]) -> Any:
    kind = type(values[0])
    if issubclass(kind, torch.Tensor):
        return torch.cat(values, dim=0)
    if issubclass(kind, list):
        return sum(values, [])
    if hasattr(kind, "cat"):
        return kind.cat(values)
    raise ValueError(f"Unsupported type {kind} for concatenation")
