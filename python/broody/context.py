"""Contexts: the package's functions with a start method of their own.

Behaviour: https://docs.python.org/3/library/multiprocessing.html#contexts-and-start-methods
"""

import os
import sys
import threading

from . import process

__all__ = ()


def __getattr__(name):
    # Imported when it is needed: programs pay for what they import of broody.
    if name == "reduction":
        if name not in globals():
            from importlib import import_module

            globals()[name] = import_module(".reduction", __package__)
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class ProcessError(Exception):
    """What the others have in common."""


class BufferTooShort(ProcessError):
    """A message does not fit into the buffer; it is the first argument."""


class TimeoutError(ProcessError):
    """The time was over."""


class AuthenticationError(ProcessError):
    """The other side does not know the key."""


class BaseContext:
    """The package's face, for one start method."""

    ProcessError = ProcessError
    BufferTooShort = BufferTooShort
    TimeoutError = TimeoutError
    AuthenticationError = AuthenticationError

    current_process = staticmethod(process.current_process)
    parent_process = staticmethod(process.parent_process)
    active_children = staticmethod(process.active_children)

    def cpu_count(self):
        """How many CPUs the machine has. (`os.process_cpu_count` and cgroups say how many of them this process may use.)"""
        count = os.cpu_count()
        if count is None:
            raise NotImplementedError("cannot determine number of cpus")
        return count

    def Manager(self):
        """A started `SyncManager`: a server process that hosts objects."""
        from .managers import SyncManager

        manager = SyncManager(ctx=self.get_context())
        manager.start()
        return manager

    def Pipe(self, duplex=True):
        """Two connected `Connection` objects."""
        from .connection import Pipe

        return Pipe(duplex)

    def Lock(self, *, strict=False):
        """A lock, not recursive. A `strict` one raises `OwnerDiedError` after its holder died, instead of a warning."""
        from .synchronize import Lock

        return Lock(ctx=self.get_context(), strict=strict)

    def RLock(self, *, strict=False):
        """A recursive lock; `strict` as for `Lock`."""
        from .synchronize import RLock

        return RLock(ctx=self.get_context(), strict=strict)

    def Condition(self, lock=None):
        """A condition variable."""
        from .synchronize import Condition

        return Condition(lock, ctx=self.get_context())

    def Semaphore(self, value=1):
        """A semaphore."""
        from .synchronize import Semaphore

        return Semaphore(value, ctx=self.get_context())

    def BoundedSemaphore(self, value=1):
        """A semaphore that cannot be released more often than it was acquired."""
        from .synchronize import BoundedSemaphore

        return BoundedSemaphore(value, ctx=self.get_context())

    def Event(self):
        """An event."""
        from .synchronize import Event

        return Event(ctx=self.get_context())

    def Barrier(self, parties, action=None, timeout=None):
        """A barrier."""
        from .synchronize import Barrier

        return Barrier(parties, action, timeout, ctx=self.get_context())

    def Queue(self, maxsize=0):
        """A queue."""
        from .queues import Queue

        return Queue(maxsize, ctx=self.get_context())

    def JoinableQueue(self, maxsize=0):
        """A queue whose tasks are counted until they are done."""
        from .queues import JoinableQueue

        return JoinableQueue(maxsize, ctx=self.get_context())

    def SimpleQueue(self):
        """A queue without frills."""
        from .queues import SimpleQueue

        return SimpleQueue(ctx=self.get_context())

    def Pool(self, processes=None, initializer=None, initargs=(), maxtasksperchild=None, **more):
        """A pool of worker processes. Beyond the standard module's: see `broody.pool.Pool`."""
        from .pool import Pool

        return Pool(
            processes, initializer, initargs, maxtasksperchild, context=self.get_context(), **more
        )

    def RawValue(self, typecode_or_type, *args):
        """A shared ctypes object without a lock."""
        from .sharedctypes import RawValue

        return RawValue(typecode_or_type, *args)

    def RawArray(self, typecode_or_type, size_or_initializer):
        """A shared ctypes array without a lock."""
        from .sharedctypes import RawArray

        return RawArray(typecode_or_type, size_or_initializer)

    def Value(self, typecode_or_type, *args, lock=True):
        """A shared ctypes object."""
        from .sharedctypes import Value

        return Value(typecode_or_type, *args, lock=lock, ctx=self.get_context())

    def Array(self, typecode_or_type, size_or_initializer, *, lock=True):
        """A shared ctypes array."""
        from .sharedctypes import Array

        return Array(typecode_or_type, size_or_initializer, lock=lock, ctx=self.get_context())

    def freeze_support(self):
        """Nothing: only frozen programs on Windows need it."""

    def get_logger(self):
        """The package's logger."""
        from .util import get_logger

        return get_logger()

    def log_to_stderr(self, level=None):
        """Lets the package's logger write to standard error."""
        from .util import log_to_stderr

        return log_to_stderr(level)

    def allow_connection_pickling(self):
        """Makes connections and sockets picklable, which they are."""
        from . import connection  # noqa: F401

    def set_executable(self, executable):
        """The interpreter that children of `spawn` and `forkserver` run."""
        from .spawn import set_executable

        set_executable(executable)

    def set_forkserver_preload(self, module_names, *, on_error="ignore"):
        """The modules that the fork server imports before it forks. Say it before the first process is started by it."""
        from .forkserver import set_forkserver_preload

        set_forkserver_preload(module_names, on_error=on_error)

    def get_context(self, method=None):
        """A context with the start method `method`."""
        if method is None:
            return self
        try:
            ctx = _concrete_contexts[method]
        except KeyError:
            raise ValueError(f"cannot find context for {method!r}") from None
        ctx._check_available()
        return ctx

    def get_start_method(self, allow_none=False):
        """The name of the start method."""
        return self._name

    def set_start_method(self, method, force=False):
        """Only the default context's can be set."""
        raise ValueError("cannot set start method of concrete context")

    @property
    def reducer(self):
        """What objects are pickled with."""
        return __getattr__("reduction")

    @reducer.setter
    def reducer(self, reduction):
        globals()["reduction"] = reduction

    def _check_available(self):
        pass


class Process(process.BaseProcess):
    """A process of the default context's start method."""

    _start_method = None

    @staticmethod
    def _Popen(process_obj):
        return _default_context.get_context().Process._Popen(process_obj)

    @staticmethod
    def _after_fork():
        return _default_context.get_context().Process._after_fork()


class DefaultContext(BaseContext):
    """The context of the package itself, whose start method can be set once."""

    Process = Process

    def __init__(self, context):
        self._default_context = context
        self._actual_context = None

    def get_context(self, method=None):
        """The context of the start method `method`, or of the one that is set."""
        if method is not None:
            return super().get_context(method)
        if self._actual_context is None:
            self._actual_context = self._default_context
        return self._actual_context

    def set_start_method(self, method, force=False):
        """Sets the start method; a second time only with `force`."""
        if self._actual_context is not None and not force:
            raise RuntimeError("context has already been set")
        if method is None and force:
            self._actual_context = None
            return
        self._actual_context = self.get_context(method)

    def get_start_method(self, allow_none=False):
        """The name of the start method; None with `allow_none` as long as it is not set."""
        if self._actual_context is None:
            if allow_none:
                return None
            self._actual_context = self._default_context
        return self._actual_context._name

    def get_all_start_methods(self):
        """The names of the start methods, the default first."""
        return sorted(_concrete_contexts, key=lambda name: name != self._default_context._name)


class ForkProcess(process.BaseProcess):
    """A process that is a fork of this one."""

    _start_method = "fork"

    @staticmethod
    def _Popen(process_obj):
        from .popen_fork import Popen

        return Popen(process_obj)


class SpawnProcess(process.BaseProcess):
    """A process that is a new interpreter."""

    _start_method = "spawn"

    @staticmethod
    def _Popen(process_obj):
        from .popen_spawn_posix import Popen

        return Popen(process_obj)

    @staticmethod
    def _after_fork():
        # It was not forked.
        pass


class ForkServerProcess(process.BaseProcess):
    """A process that is a fork of the fork server: a small interpreter with one thread."""

    _start_method = "forkserver"

    @staticmethod
    def _Popen(process_obj):
        from .popen_forkserver import Popen

        return Popen(process_obj)


class ForkContext(BaseContext):
    _name = "fork"
    Process = ForkProcess


class SpawnContext(BaseContext):
    _name = "spawn"
    Process = SpawnProcess


class ForkServerContext(BaseContext):
    _name = "forkserver"
    Process = ForkServerProcess


_concrete_contexts = {"fork": ForkContext(), "spawn": SpawnContext(), "forkserver": ForkServerContext()}
# As the interpreter's own module has it.
_default_context = DefaultContext(_concrete_contexts["forkserver" if sys.version_info >= (3, 14) else "fork"])


def _force_start_method(method):
    _default_context._actual_context = _concrete_contexts[method]


# Which process is being started, while it is pickled.

_tls = threading.local()


def get_spawning_popen():
    return getattr(_tls, "spawning_popen", None)


def set_spawning_popen(popen):
    _tls.spawning_popen = popen


def assert_spawning(obj):
    """Refuses to pickle `obj` except where it goes to another process of this program: at its start, as a part of a pool's task or result, through a queue."""
    if get_spawning_popen() is not None:
        return
    # Not at the top: the package is imported without it.
    from . import _broody

    if not _broody.takes_handles():
        raise RuntimeError(
            f"{type(obj).__name__} objects should only be shared between processes through inheritance"
        )
