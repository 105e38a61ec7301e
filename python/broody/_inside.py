"""Classes derived from queues of the standard module that know what is inside: its pipe, its locks, its thread.

Programs have such classes (loky's queues, torch's). There is nothing of that inside broody's, so these classes are derived from the interpreter's own instead:
its file `multiprocessing/queues.py`, over broody's pipes, locks and processes. What broody promises of queues they do not have; the rest they do.
"""

import os
import sys
import types

__all__ = []

# What only a queue of a pipe, two locks and a thread has.
_INSIDE = frozenset(
    "_after_fork _buffer _feed _finalize_close _finalize_join _make_methods _notempty _poll _reader _recv_bytes _reset _rlock _sem _send_bytes _start_thread"
    " _thread _wlock _writer".split()
)


class Kind(type):
    """Of queues: chooses what a derived class is derived from."""

    def __new__(meta, name, bases, namespace, **keywords):
        if any(isinstance(base, Kind) for base in bases) and namespace.get("__module__") != "broody.queues" and _knows(namespace):
            bases = tuple(_standard(base) for base in bases)
            return type(bases[0])(name, bases, namespace, **keywords)
        return super().__new__(meta, name, bases, namespace, **keywords)


def _knows(namespace):
    if not _INSIDE.isdisjoint(namespace):
        return True
    functions = (getattr(value, "__func__", value) for value in namespace.values())
    codes = (function.__code__ for function in functions if isinstance(function, types.FunctionType))
    return any(not _INSIDE.isdisjoint(code.co_names) for code in codes)


def _standard(base):
    """The interpreter's class of that name."""
    return getattr(standard_queues(), base.__name__) if isinstance(base, Kind) else base


def standard_queues():
    """The interpreter's own module of queues, as a part of this package."""
    name = "broody._standard_queues"
    if name not in sys.modules:
        import importlib.util

        path = os.path.join(os.path.dirname(os.__file__), "multiprocessing", "queues.py")
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
