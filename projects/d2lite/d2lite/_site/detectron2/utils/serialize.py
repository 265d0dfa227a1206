"""Pickling of what pickle alone refuses: closures, lambdas, local classes."""

from typing import Any

import cloudpickle

__all__ = ["PicklableWrapper"]


class PicklableWrapper:
    """Acts as the wrapped object and pickles it with cloudpickle; it unpickles unwrapped."""

    def __init__(self, obj: Any):
        while isinstance(obj, PicklableWrapper):
            obj = obj._obj
        self._obj = obj

    def __reduce__(self):
        return cloudpickle.loads, (cloudpickle.dumps(self._obj),)

    def __call__(self, *args, **kwargs):
        return self._obj(*args, **kwargs)

    def __getattr__(self, attr: str) -> Any:
        if attr == "_obj":  # not set yet: looking it up in itself would never end
            raise AttributeError(attr)
        return getattr(self._obj, attr)
