"""What broody tells that the standard module has no name for.

All of them are picklable, and say which process it was, how it ended, and what it did.
"""

import signal

from .context import ProcessError, TimeoutError

__all__ = [
    "WorkerLostError", "TaskTimeoutError", "TaskMemoryError", "TaskCancelledError", "TaskExitError", "PoolFullError",
    "PoolTerminatedError", "PoolBrokenError", "TransferError", "OwnerDiedError", "OwnerDiedWarning",
]  # fmt: skip


class _Told(ProcessError):
    """An exception that is made of the fields it tells."""

    _fields = ()

    def __init__(self, message, *fields):
        super().__init__(message, *fields)
        for name, value in zip(self._fields, fields, strict=True):
            setattr(self, name, value)

    def __str__(self):
        return self.args[0]


def _end(exitcode):
    if exitcode is None:
        return "ended in a way that nobody knows"
    if exitcode >= 0:
        return f"ended with exit code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    more = " (out of memory, perhaps: see dmesg)" if name == "SIGKILL" else ""
    return f"was ended by {name}{more}"


class WorkerLostError(_Told):
    """A worker process died while it ran the task. The pool goes on; `retries=` has such tasks run again.

    `task` is the task's number in the pool, `pid` the worker's, `exitcode` as `Process.exitcode`.
    """

    _fields = ("task", "pid", "exitcode")

    @classmethod
    def _of(cls, task, pid, exitcode):
        return cls(f"the worker (pid {pid}) of task {task} {_end(exitcode)}", task, pid, exitcode)


class TaskTimeoutError(_Told, TimeoutError):
    """A task took longer than its `timeout`, and its worker was ended and replaced.

    `limit` is in seconds.
    """

    _fields = ("task", "pid", "limit")

    @classmethod
    def _of(cls, task, pid, limit):
        return cls(f"task {task} ran longer than {limit:g} s, and its worker (pid {pid}) was ended", task, pid, limit)


class TaskMemoryError(_Told):
    """A task took more memory than its `memory_limit`, and its worker was ended and replaced.

    `limit` and `grown` are in bytes.
    """

    _fields = ("task", "pid", "limit", "grown")

    @classmethod
    def _of(cls, task, pid, limit, grown):
        message = f"task {task} took {grown} bytes where {limit} are allowed, and its worker (pid {pid}) was ended"
        return cls(message, task, pid, limit, grown)


class TaskCancelledError(_Told):
    """A task was cancelled."""

    _fields = ("task",)

    @classmethod
    def _of(cls, task):
        return cls(f"task {task} was cancelled", task)


class TaskExitError(_Told):
    """A task ended by SystemExit or KeyboardInterrupt, which would end the caller if they were raised there.

    `kind` is the exception's name, `code` the exit code.
    """

    _fields = ("kind", "code")

    @classmethod
    def _of(cls, kind, code):
        return cls(f"the task raised {kind}({code if code is not None else ''})", kind, code)


class PoolFullError(_Told):
    """More tasks wait than `max_queue` allows."""

    _fields = ("waiting",)

    @classmethod
    def _of(cls, waiting):
        return cls(f"the pool is full: {waiting} tasks wait already", waiting)


class PoolTerminatedError(_Told):
    """The pool was terminated before the task was done."""

    _fields = ("task",)

    @classmethod
    def _of(cls, task):
        return cls(f"the pool was terminated before task {task} was done", task)


class PoolBrokenError(_Told):
    """The pool has given up: its workers die as they start, or their initializer fails."""

    _fields = ("reason",)

    @classmethod
    def _of(cls, reason):
        return cls(f"the pool has given up: {reason}", reason)


class TransferError(_Told):
    """A call of an executor's could not be unpickled in the worker, or its result here. The cause says why."""


class OwnerDiedError(_Told):
    """A lock was held by a process that died. Raised by locks that are `strict`; what the lock guards may be half-done."""


class OwnerDiedWarning(RuntimeWarning):
    """A lock was held by a process that died; it has been acquired all the same. What it guards may be half-done."""
