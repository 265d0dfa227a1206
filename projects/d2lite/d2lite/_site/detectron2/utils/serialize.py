"""Pickling of what pickle alone refuses: closures, lambdas, local classes."""

import cloudpickle

__all__ = ["PicklableWrapper"]


class PicklableWrapper:
    """Acts as the wrapped object and pickles it with cloudpickle; it unpickles unwrapped."""

    def __init__(self, obj):
        self._obj = obj._obj if isinstance(obj, PicklableWrapper) else obj

    def __reduce__(self):
        return cloudpickle.loads, (cloudpickle.dumps(self._obj),)

    def __call__(self, *args, **kwargs):
        return self._obj(*args, **kwargs)

    def __getattr__(self, attr):
        if attr == "_obj":  # not set yet: looking it up in itself would never end
            raise AttributeError(attr)
        return getattr(self._obj, attr)
