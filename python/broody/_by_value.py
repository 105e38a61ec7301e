"""Pickles by value, for what pickle cannot send by name: see `crates/broody-py/src/by_value.rs`.

cloudpickle does it, where it is installed. It is imported only when something needs it.
"""

import io
import sys

from . import _broody
from .reduction import ForkingPickler

__all__ = []

_pickler = None


def main_is_no_file():
    """Whether what is defined in the main module is for this process only: a prompt, a notebook, `python -c`."""
    main = sys.modules.get("__main__")
    return getattr(main, "__file__", None) is None and getattr(main, "__spec__", None) is None


def look_at_main():
    """Before the start of workers: tells the engine."""
    _broody.main_is_no_file(main_is_no_file())


def dumps_for_child(obj, is_lacking):
    """The pickle of what a new process shall have. `is_lacking`: it cannot import this process's main module, so that what is defined there goes by value."""
    try:
        data, error = bytes(ForkingPickler.dumps(obj)), None
    except Exception as raised:
        data, error = None, raised
    if error is not None or (is_lacking and b"__main__" in data):
        data = dumps(obj, error) or data
    if data is None:
        raise error
    return data


def dumps(obj, error):
    """The pickle of `obj` by value; None without cloudpickle, and if what cannot be pickled by name, for which `error` is, cannot be so either."""
    import pickle

    if error is not None and not isinstance(error, (pickle.PicklingError, AttributeError, TypeError)):
        return None
    if (kind := _kind()) is None:
        return None
    buffer = io.BytesIO()
    try:
        kind(buffer, protocol=5).dump(obj)
    except Exception:
        if error is None:
            raise
        return None
    return buffer.getvalue()


def _kind():
    """A pickler of cloudpickle's that knows broody's objects as well; None without cloudpickle."""
    global _pickler
    if _pickler is None:
        try:
            import cloudpickle
        except ImportError:
            if "joblib" not in sys.modules:
                return None
            # It brings one along.
            from joblib.externals import cloudpickle
        from collections import ChainMap

        class Pickler(cloudpickle.Pickler):
            dispatch_table = ChainMap(ForkingPickler._extra_reducers, cloudpickle.Pickler.dispatch_table)

        _pickler = Pickler
    return _pickler
