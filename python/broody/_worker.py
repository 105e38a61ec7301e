"""A worker of a pool: how it becomes one, and what it tells of tasks that fail."""

import io
import os
import pickle
import re
import threading
import traceback

from . import context, process, reduction, spawn, util
from .exceptions import TaskExitError

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
        buffer = io.BytesIO()
        context.set_spawning_popen(_Spawning)
        try:
            reduction.dump(spawn.get_preparation_data("worker"), buffer)
            reduction.dump(self, buffer)
        finally:
            context.set_spawning_popen(None)
        return buffer.getvalue()


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

            _child.part()
            file = io.BytesIO(payload)
            process.current_process()._inheriting = True
            try:
                spawn.prepare(pickle.load(file))
                what = pickle.load(file)
            finally:
                del process.current_process()._inheriting
        else:
            from . import pool

            process._clear_atexit()
            what = pool._forked_with[int(payload)]
        _become(what, int(re.search(r"\d+$", name).group()))
        if what.initializer is not None:
            what.initializer(*what.initargs)
    except BaseException as error:
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
    process._run_atexit()
    util._flush_std_streams()


def failure(error, most=None):
    """What is told of a task that raised: the pickle of an exception; of at most so many bytes, if a shorter traceback is enough for that."""
    from .pool import ExceptionWithTraceback, MaybeEncodingError

    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        told = TaskExitError._of(type(error).__name__, getattr(error, "code", None))
        told.__traceback__ = error.__traceback__
        error = told
    if isinstance(error, MaybeEncodingError):
        return _dumps(error)
    wrapped = ExceptionWithTraceback(error, error.__traceback__)
    try:
        data = _dumps(wrapped)
        if most is not None and len(data) > most:
            # Where it happened is at the end.
            whole, wrapped.tb = data, '\n"""\n[...]' + wrapped.tb[-most // 4 :]
            data = _dumps(wrapped)
            data = whole if len(data) > most else data
        # Exceptions with arguments of their own often pickle, and then do not unpickle.
        pickle.loads(data)
        return data
    except BaseException as reason:
        other = MaybeEncodingError(reason, error)
        return _dumps(_WithTraceback(other, wrapped.tb))


def _dumps(obj):
    return bytes(reduction.ForkingPickler.dumps(obj))


class _WithTraceback:
    def __init__(self, exc, tb):
        self.exc, self.tb = exc, tb

    def __reduce__(self):
        from .pool import rebuild_exc

        return rebuild_exc, (self.exc, self.tb)


def unencodable(error, value):
    """The exception for a result that cannot be pickled."""
    from .pool import MaybeEncodingError

    return MaybeEncodingError(error, value)

