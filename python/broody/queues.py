"""Queues between processes.

What `put` has put is in shared memory when it returns, and nothing of it in the process: no thread feeds a pipe, nothing is lost when the process ends the next
moment, and a process that is killed in the middle of a put or a get leaves the queue whole.

Behaviour: https://docs.python.org/3/library/multiprocessing.html#pipes-and-queues
"""

import traceback
import types
import warnings
from queue import Empty, Full

from . import _broody, _inside, context

__all__ = ["Queue", "SimpleQueue", "JoinableQueue", "TasksLostWarning"]


class TasksLostWarning(RuntimeWarning):
    """Tasks of a `JoinableQueue` were taken by processes that died before they said `task_done()`. `join` does not wait for them."""


class _End:
    """One side of a queue, for who asks for it as if there were a pipe. Made each time, all equal; that it is closed is known by the queue."""

    def __init__(self, queue):
        self._queue = queue

    def __eq__(self, other):
        return type(self) is type(other) and self._queue is other._queue

    def __hash__(self):
        return hash((type(self), id(self._queue)))

    @property
    def closed(self):
        return type(self) in self._queue._closed_ends

    def close(self):
        self._queue._closed_ends |= {type(self)}

    def _check(self):
        if self.closed:
            raise OSError("handle is closed")

    def fileno(self):
        """A descriptor that is readable when there is something to be taken."""
        self._check()
        return self._queue._descriptor()


class _Reader(_End):
    readable, writable = True, False

    def recv(self):
        """The next object."""
        self._check()
        return self._queue._take(None)

    def poll(self, timeout=0.0):
        """Whether there is something, after waiting for it at most `timeout` seconds."""
        from .connection import wait

        self._check()
        if not self._queue._is_empty():
            return True
        return bool(timeout != 0 and wait([self], timeout) and not self._queue._is_empty())


class _Writer(_End):
    readable, writable = False, True

    def send(self, obj):
        """Puts an object."""
        self._check()
        self._queue.put(obj)


class _Ends:
    """The two sides of a queue."""

    __class_getitem__ = classmethod(types.GenericAlias)
    _closed_ends = frozenset()
    _reader = property(_Reader)
    _writer = property(_Writer)

    def close(self):
        """This process puts and gets no more."""
        super().close()
        self._closed_ends = frozenset((_Reader, _Writer))


class Queue(_Ends, _broody.Queue, metaclass=_inside.Kind):
    """A queue of at most `maxsize` objects, or of any number."""

    def __init__(self, maxsize=0, *, ctx=None):
        self._begin(maxsize, False)

    def _begin(self, maxsize, counts_tasks):
        self._maxsize = maxsize if maxsize > 0 else 2**31 - 1
        self._make(maxsize if 0 < maxsize < 2**28 else None, counts_tasks)

    def __getstate__(self):
        context.assert_spawning(self)
        return self._encode(), self._maxsize

    def __setstate__(self, state):
        encoded, self._maxsize = state
        self._decode(encoded)

    def _is_empty(self):
        return self.qsize() == 0

    def join_thread(self):
        """Nothing: what was put is in the queue."""

    def cancel_join_thread(self):
        """Nothing: the end of a process never waits for the queue, and nothing is lost."""

    def _terminate_broken(self):
        """For `ProcessPoolExecutor`, when one of its workers has died: this process puts and gets no more."""
        self.close()

    @staticmethod
    def _on_queue_feeder_error(e, obj):
        """Called when `obj`, which was put, cannot be pickled, by the error `e`. To be overridden; this one prints the traceback."""
        traceback.print_exception(e)


class JoinableQueue(Queue):
    """A queue whose objects are tasks: whoever takes one says when it is done, and `join` waits until all are."""

    def __init__(self, maxsize=0, *, ctx=None):
        self._begin(maxsize, True)

    def task_done(self):
        """A task that was taken is done."""
        if not self._task_done():
            raise ValueError("task_done() called too many times")

    def join(self):
        """Waits until all tasks that were put are done, or lost with the processes that had taken them (`TasksLostWarning`)."""
        lost = self._join()
        if lost:
            message = f"{lost} tasks were taken by processes that died before they said task_done(); the others are done"
            warnings.warn(message, TasksLostWarning, stacklevel=2)


class SimpleQueue(_Ends, _broody.SimpleQueue, metaclass=_inside.Kind):
    """A queue without frills: what cannot be pickled is an error of `put`."""

    def __init__(self, *, ctx=None):
        self._make()

    def __getstate__(self):
        context.assert_spawning(self)
        return self._encode()

    def __setstate__(self, state):
        self._decode(state)

    def _is_empty(self):
        return self.empty()


def __getattr__(name):
    # The rest of the standard module's, for who knows its inside.
    if name == "_sentinel":
        return getattr(_inside.standard_queues(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
