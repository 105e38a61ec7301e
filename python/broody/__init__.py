"""Functions in processes that cannot be lost: Python's `multiprocessing`, on an engine in Rust.

`import broody as multiprocessing` is all that a program needs; `python -m broody script.py` runs one that does not know of broody.

What it promises beyond the standard module: no zombies, no orphans, no hangs when a worker dies, locks and queues that survive their users, nothing left
behind. See https://docs.python.org/3/library/multiprocessing.html for what it does otherwise.
"""

import sys

from . import context
from .context import (
    AuthenticationError,
    BufferTooShort,
    DefaultContext,
    Process,
    ProcessError,
    TimeoutError,
)
from .process import active_children, current_process, parent_process

_default = context._default_context

Array = _default.Array
Barrier = _default.Barrier
BoundedSemaphore = _default.BoundedSemaphore
Condition = _default.Condition
Event = _default.Event
JoinableQueue = _default.JoinableQueue
Lock = _default.Lock
Manager = _default.Manager
Pipe = _default.Pipe
Pool = _default.Pool
Queue = _default.Queue
RLock = _default.RLock
RawArray = _default.RawArray
RawValue = _default.RawValue
Semaphore = _default.Semaphore
SimpleQueue = _default.SimpleQueue
Value = _default.Value
allow_connection_pickling = _default.allow_connection_pickling
cpu_count = _default.cpu_count
freeze_support = _default.freeze_support
get_all_start_methods = _default.get_all_start_methods
get_context = _default.get_context
get_logger = _default.get_logger
get_start_method = _default.get_start_method
log_to_stderr = _default.log_to_stderr
set_executable = _default.set_executable
set_forkserver_preload = _default.set_forkserver_preload
set_start_method = _default.set_start_method

SUBDEBUG = 5
SUBWARNING = 25

__all__ = [
    "Array", "AuthenticationError", "Barrier", "BoundedSemaphore", "BufferTooShort", "Condition", "Event", "JoinableQueue",
    "Lock", "Manager", "Pipe", "Pool", "Process", "ProcessError", "Queue", "RLock", "RawArray", "RawValue", "Semaphore",
    "SimpleQueue", "TimeoutError", "Value", "active_children", "allow_connection_pickling", "cpu_count", "current_process",
    "freeze_support", "get_all_start_methods", "get_context", "get_logger", "get_start_method", "install", "log_to_stderr",
    "parent_process", "reducer", "set_executable", "set_forkserver_preload", "set_start_method",
]  # fmt: skip

# What a child of `spawn` knows as its main module is this one's `__main__`.
if "__main__" in sys.modules:
    sys.modules["__mp_main__"] = sys.modules["__main__"]


# Modules that are imported when they are asked for; in the standard module others may have imported them.
_MODULES = {
    "connection", "dummy", "forkserver", "heap", "managers", "pool", "queues", "reduction", "resource_sharer", "resource_tracker",
    "shared_memory", "sharedctypes", "spawn", "synchronize", "util",
}  # fmt: skip


def __getattr__(name):
    if name == "reducer":
        return _default.reducer
    if name in _MODULES:
        from importlib import import_module

        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def install():
    """Puts broody in the place of `multiprocessing`, in this process and in those that it starts from now on.

    `import multiprocessing` gives broody then, and so does every import of its submodules. Programs that imported the standard module before keep
    it: call this first.
    """
    from ._shadow import install

    install()
