"""Locks, semaphores, conditions, events and barriers between processes.

They are words in shared memory that all processes of the program have, and need no names. What a process held when it died is free again: whoever takes a lock of
which the last holder died is warned (`OwnerDiedWarning`), or gets an `OwnerDiedError` from a lock that is `strict`.

Behaviour: https://docs.python.org/3/library/multiprocessing.html#synchronization-primitives
"""

import abc
import threading
import time

from . import _broody, context, process
from .exceptions import OwnerDiedError, OwnerDiedWarning

__all__ = ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event", "Barrier", "OwnerDiedError", "OwnerDiedWarning"]

RECURSIVE_MUTEX, SEMAPHORE = range(2)
SEM_VALUE_MAX = 2**31 - 1


def _completes(made):
    """Adds what a class and its bases here say to the class that the engine has made of the same name."""

    def complete(here):
        for base in reversed(here.__mro__[:-1]):
            for name, value in vars(base).items():
                if name not in ("__dict__", "__weakref__", "__module__", "__abstractmethods__", "_abc_impl"):
                    setattr(made, name, value)
        SemLock.register(made)
        return made

    return complete


class SemLock(metaclass=abc.ABCMeta):
    """What locks and semaphores have in common: where one is pickled, it is at the start of a process."""

    # Names exist only where something has to be found by them.
    name = None
    kind = SEMAPHORE
    maxvalue = SEM_VALUE_MAX

    @property
    def _semlock(self):
        return self

    def __getstate__(self):
        context.assert_spawning(self)
        return self._encode()

    def __setstate__(self, state):
        self._decode(*state)

    def _holder(self):
        """Who has it, as far as this process knows."""
        try:
            if self._is_mine():
                name = process.current_process().name
                thread = threading.current_thread().name
                return name if thread == "MainThread" else f"{name}|{thread}"
            if not self._is_zero():
                return "None"
            return "SomeOtherThread" if self._count() > 0 else "SomeOtherProcess"
        except Exception:
            return "unknown"


@_completes(_broody.Lock)
class Lock(SemLock):
    """A lock that is not recursive. Any process and any thread may release it."""

    maxvalue = 1

    def __init__(self, *, ctx=None, strict=False):
        self._make(strict)

    def __repr__(self):
        return f"<{type(self).__name__}(owner={self._holder()})>"


@_completes(_broody.RLock)
class RLock(SemLock):
    """A lock that belongs to a thread, which may take it again and must release it as often."""

    kind = RECURSIVE_MUTEX
    maxvalue = 1

    def __init__(self, *, ctx=None, strict=False):
        self._make(strict)

    def __repr__(self):
        holder = self._holder()
        if holder.startswith("SomeOther"):
            count = "nonzero"
        else:
            count = self._count() if self._is_mine() else 0
        return f"<{type(self).__name__}({holder}, {count})>"


@_completes(_broody.Semaphore)
class Semaphore(SemLock):
    """A counter of tokens that belong to nobody: those that a process has taken are gone when it dies."""

    def __init__(self, value=1, *, ctx=None):
        self._make(value, False)

    def __repr__(self):
        return f"<{type(self).__name__}(value={self.get_value()})>"


class BoundedSemaphore(Semaphore):
    """A semaphore that cannot be released more often than it was acquired. What a process had acquired is free again when it dies."""

    def __init__(self, value=1, *, ctx=None):
        self._make(value, True)
        self.maxvalue = value

    def __getstate__(self):
        return super().__getstate__(), self.maxvalue

    def __setstate__(self, state):
        state, self.maxvalue = state
        super().__setstate__(state)

    def __repr__(self):
        return f"<{type(self).__name__}(value={self.get_value()}, maxvalue={self.maxvalue})>"


class _Count:
    """A number that can be asked for, as a semaphore's value."""

    def __init__(self, get_value):
        self.get_value = get_value


class Condition(_broody.Condition):
    """Waiting for something that a lock guards. A notification wakes the one that has waited longest, and passes on if that dies with it."""

    def __init__(self, lock=None, *, ctx=None):
        self._make()
        self._use(lock if lock is not None else (ctx or context._default_context).RLock())

    def _use(self, lock):
        self._lock = lock
        self.acquire = lock.acquire
        self.release = lock.release
        self._is_mine = getattr(lock, "_is_mine", lambda: True)

    def __getstate__(self):
        context.assert_spawning(self)
        return self._encode(), self._lock

    def __setstate__(self, state):
        encoded, lock = state
        self._decode(encoded)
        self._use(lock)

    def __enter__(self):
        return self._lock.__enter__()

    def __exit__(self, *args):
        return self._lock.__exit__(*args)

    def __repr__(self):
        try:
            waiting = self._waiting()
        except Exception:
            waiting = "unknown"
        return f"<{type(self).__name__}({self._lock}, {waiting})>"

    def locked(self):
        """Whether anybody has the lock."""
        return self._lock.locked()

    def _assert_mine(self, what):
        if not self._is_mine():
            raise AssertionError(f"must acquire() condition before using {what}()")

    def wait(self, timeout=None):
        """Gives the lock back, waits for a notification, at most for `timeout` seconds if that is not None, and takes the lock again. Whether a
        notification came."""
        self._assert_mine("wait")
        return self._wait(self._lock, timeout)

    def notify(self, n=1):
        """Notifies the `n` that have waited longest."""
        self._assert_mine("notify")
        self._notify(n)

    def notify_all(self):
        """Notifies everybody who waits."""
        self._assert_mine("notify_all")
        self._notify(2**32 - 1)

    def wait_for(self, predicate, timeout=None):
        """Waits until `predicate()` is true, at most for `timeout` seconds if that is not None. Gives what it gave last."""
        deadline = None if timeout is None else time.monotonic() + timeout
        left = None
        while not (result := predicate()):
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
            self.wait(left)
        return result

    # What the standard module's has, as semaphores: who waits, who of them was notified and does not know yet, and notifications on their way. Here
    # a notification is its waiter's at once.

    @property
    def _sleeping_count(self):
        return _Count(self._waiting)

    @property
    def _woken_count(self):
        return _Count(lambda: 0)

    @property
    def _wait_semaphore(self):
        return _Count(lambda: 0)


class Event(_broody.Event):
    """A flag that processes set, clear and wait for."""

    def __init__(self, *, ctx=None):
        self._make()

    def __getstate__(self):
        context.assert_spawning(self)
        return self._encode()

    def __setstate__(self, state):
        self._decode(state)

    def __repr__(self):
        status = "set" if self.is_set() else "unset"
        return f"<{type(self).__qualname__} at {id(self):#x} {status}>"


class Barrier(_broody.Barrier):
    """A meeting of a number of parties, which wait here for each other. One that dies in it breaks it for all."""

    def __init__(self, parties, action=None, timeout=None, *, ctx=None):
        if not 1 <= parties <= 65535:
            raise ValueError(f"a barrier is for 1 to 65535 parties, not for {parties}")
        self._make(parties)
        self._action = action
        self._timeout = timeout

    def __getstate__(self):
        context.assert_spawning(self)
        return self._encode(), self._action, self._timeout

    def __setstate__(self, state):
        encoded, self._action, self._timeout = state
        self._decode(encoded)

    def __repr__(self):
        status = "broken" if self.broken else f"waiters={self.n_waiting}/{self.parties}"
        return f"<{type(self).__module__}.{type(self).__qualname__} at {id(self):#x}: {status}>"

    def wait(self, timeout=None):
        """Waits until all parties have come, at most for `timeout` seconds. Gives each party another number, 0 to `parties` - 1. The last one to come
        runs the action before anybody goes on. BrokenBarrierError when the barrier is broken, or the time is over, which breaks it."""
        number = self._wait(self._timeout if timeout is None else timeout, self._action)
        if number is None:
            raise threading.BrokenBarrierError
        return number
