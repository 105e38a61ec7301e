"""A worker of a pool: how it becomes one, and what it tells of tasks that fail."""

import os
import pickle
import threading

from . import context, process, reduction, spawn, util

__all__ = []


class Begin:
    """What a pool's workers have to know before their first task."""

    def __init__(self, pool, method, first):
        current = process.current_process()
        self.method = method
        self.first = first
        self.identity = current._identity
        self.config = {**current._config, "daemon": True}
        self.parent = (current.name, os.getpid())
        self.initializer = pool._initializer
        self.initargs = pool._initargs

    def encode(self):
        """For workers that are no forks of this process."""
        return spawn._pack("worker", self, _Spawning)


class _Spawning:
    """Workers are started again and again, by what was pickled once: descriptors cannot go with it."""

    @staticmethod
    def duplicate_for_child(fd):
        raise pickle.PicklingError(
            "a descriptor (a connection, a socket) cannot be an argument of a pool's initializer with the start methods spawn and forkserver"
        )


def begin(payload, name):
    """In the worker: becomes one. Why it cannot, as text; None if it can."""
    try:
        if payload.startswith(b"\x80"):
            from . import _child

            _child._take_environment()
            what = spawn._unpack(payload)
        else:
            from . import pool

            what = pool._forked_with[int(payload)]
        _become(what, int(name.rpartition("-")[2]))
        if what.initializer is not None:
            what.initializer(*what.initargs)
    except BaseException as error:
        import traceback

        return "".join(traceback.format_exception(error)).rstrip()
    return None


def _become(what, number):
    kind = context._concrete_contexts[what.method].Process
    worker = kind.__new__(kind)
    index = what.first + number - 1
    worker._identity = (*what.identity, index)
    worker._config = what.config
    worker._parent_name, worker._parent_pid = what.parent
    worker._popen = None
    worker._closed = False
    worker._target, worker._args, worker._kwargs = None, (), {}
    worker._name = f"{kind.__name__.replace('Process', 'PoolWorker')}-{':'.join(map(str, worker._identity))}"
    process._dangling.add(worker)
    process._become(worker)
    if what.method != "fork":
        return
    # The parent's pools are not this process's.
    from . import pool

    pool._forked_with.clear()


def end():
    """In the worker, when it ends in an orderly way."""
    process._leave(0)
    threading._shutdown()
    util._flush_std_streams()


def failure(error):
    """What is told of a task that raised: the pickle of an exception."""
    from .pool import ExceptionWithTraceback, MaybeEncodingError

    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        from .exceptions import TaskExitError

        told = TaskExitError._of(type(error).__name__, getattr(error, "code", None))
        told.__traceback__ = error.__traceback__
        error = told
    if isinstance(error, MaybeEncodingError):
        return bytes(reduction.ForkingPickler.dumps(error))
    wrapped = ExceptionWithTraceback(error, error.__traceback__)
    try:
        data = bytes(reduction.ForkingPickler.dumps(wrapped))
        # Exceptions with arguments of their own often pickle, and then do not unpickle.
        pickle.loads(data)
        return data
    except BaseException as reason:
        wrapped.exc = MaybeEncodingError(reason, error)
        return bytes(reduction.ForkingPickler.dumps(wrapped))


def unencodable(error, value):
    """The exception for a result that cannot be pickled."""
    from .pool import MaybeEncodingError

    return MaybeEncodingError(error, value)

