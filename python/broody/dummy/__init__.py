"""The package's face, for threads of this process.

Behaviour: https://docs.python.org/3/library/multiprocessing.html#module-multiprocessing.dummy
"""

import array
import sys
import threading
import weakref
from queue import Queue
from threading import Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, Semaphore

from .connection import Pipe

__all__ = [
    "Process", "current_process", "active_children", "freeze_support", "Lock", "RLock", "Semaphore", "BoundedSemaphore",
    "Condition", "Event", "Barrier", "Queue", "Manager", "Pipe", "Pool", "JoinableQueue",
]  # fmt: skip


class DummyProcess(threading.Thread):
    """A thread that looks like a process."""

    def __init__(self, group=None, target=None, name=None, args=(), kwargs={}):
        super().__init__(group, target, name, args, kwargs)
        self._pid = None
        self._children = weakref.WeakKeyDictionary()
        self._start_called = False
        self._parent = current_process()

    def start(self):
        if self._parent is not current_process():
            raise RuntimeError(f"Parent is {self._parent!r} but current_process is {current_process()!r}")
        self._start_called = True
        if hasattr(self._parent, "_children"):
            self._parent._children[self] = None
        super().start()

    @property
    def exitcode(self):
        """0 when it has ended; None before."""
        return 0 if self._start_called and not self.is_alive() else None


Process = DummyProcess
current_process = threading.current_thread
current_process()._children = weakref.WeakKeyDictionary()
JoinableQueue = Queue
dict = dict
list = list


def active_children():
    """The threads that this one has started and that have not ended."""
    children = current_process()._children
    for child in [*children]:
        if not child.is_alive():
            children.pop(child, None)
    return [*children]


def freeze_support():
    """Nothing."""


class Namespace:
    """An object for attributes."""

    def __init__(self, /, **attributes):
        self.__dict__.update(attributes)

    def __repr__(self):
        shown = sorted(f"{name}={value!r}" for name, value in self.__dict__.items() if not name.startswith("_"))
        return f"{type(self).__name__}({', '.join(shown)})"


def Array(typecode, sequence, lock=True):
    """An `array.array`."""
    return array.array(typecode, sequence)


class Value:
    """An object with a `value`."""

    def __init__(self, typecode, value, lock=True):
        self._typecode = typecode
        self._value = value

    @property
    def value(self):
        return self._value

    @value.setter
    def value(self, value):
        self._value = value

    def __repr__(self):
        return f"<{type(self).__name__}({self._typecode!r}, {self._value!r})>"


def Manager():
    """This module: there is nothing to manage."""
    return sys.modules[__name__]


def shutdown():
    """Nothing."""


def Pool(processes=None, initializer=None, initargs=()):
    """A pool of threads."""
    from ..pool import ThreadPool

    return ThreadPool(processes, initializer, initargs)
