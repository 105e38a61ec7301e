"""A worker of a pool: how it becomes one, and what it tells of tasks that fail."""

import os
import pickle
import threading

from . import _child, context, process, reduction, spawn, util

__all__ = []


class Begin:
    """What a pool's workers have to know before their first task."""

    def __init__(self, initializer, initargs, method, first, logs=None, settings={}):
        current = process.current_process()
        self.method = method
        self.first = first
        self.identity = current._identity
        self.config = {**current._config, "daemon": True}
        self.parent = (current.name, os.getpid())
        self.initializer = initializer
        self.initargs = initargs
        self.logs = logs
        self.without_main = bool(settings.get("without_main"))
        self.has_environment = bool(settings.get("environment"))

    def encode(self):
        """For workers that are no forks of this process."""
        leave_out = ("init_main_from_name", "init_main_from_path") if self.without_main else ()
        return spawn._pack("worker", self._pickle, _Spawning, leave_out)

    def _pickle(self):
        from . import _by_value

        # The initializer may be of a main module that workers cannot import.
        return _by_value.dumps_for_child(self, self.without_main or _by_value.main_is_no_file())


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
            _child.part()
            what = spawn._unpack(payload)
        else:
            from . import _engines

            process._clear_atexit()
            what = _engines._forked_with[int(payload)]
            if what.has_environment:
                _child.take_environment()
        _become(what, int(name.rpartition("-")[2]))
        if what.logs is not None:
            what.logs.begin()
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
    from . import _engines

    _engines._forked_with.clear()


def end():
    """In the worker, when it ends in an orderly way."""
    process._leave(0)
    threading._shutdown()
    process._run_atexit()
    util._flush_std_streams()


def failure(error, bare=False, by_value=False, most=None):
    """What is told of a task that raised: the pickle of an exception.

    bare: SystemExit and its like are told as they are. by_value: classes that only this process knows go with it. most: of at most so many bytes, if a shorter
    traceback is enough for that.
    """
    from .pool import ExceptionWithTraceback, MaybeEncodingError

    if isinstance(error, (SystemExit, KeyboardInterrupt)) and not bare:
        from .exceptions import TaskExitError

        told = TaskExitError._of(type(error).__name__, getattr(error, "code", None))
        told.__traceback__ = error.__traceback__
        error = told
    if isinstance(error, MaybeEncodingError):
        return _dumps(error)
    wrapped = ExceptionWithTraceback(error, error.__traceback__)
    try:
        data = _pickled(wrapped, by_value)
        if most is not None and len(data) > most:
            # Where it happened is at the end.
            whole, wrapped.tb = data, '\n"""\n[...]' + wrapped.tb[-most // 4 :]
            data = _pickled(wrapped, by_value)
            data = whole if len(data) > most else data
        # Exceptions with arguments of their own often pickle, and then do not unpickle.
        pickle.loads(data)
        return data
    except BaseException as reason:
        wrapped.exc = MaybeEncodingError(reason, error)
        return _dumps(wrapped)


def _dumps(obj):
    return bytes(reduction.ForkingPickler.dumps(obj))


def _pickled(obj, by_value):
    try:
        return _dumps(obj)
    except Exception as error:
        if by_value:
            from . import _by_value

            if (data := _by_value.dumps(obj, error)) is not None:
                return data
        raise


def unencodable(error, value):
    """The exception for a result that cannot be pickled."""
    from .pool import MaybeEncodingError

    return MaybeEncodingError(error, value)


def unopened(error):
    """The exception for a call that cannot be unpickled."""
    return Unopened(error)


class Unopened(Exception):
    """A call could not be unpickled in a worker. In the host it is `broody.futures.TransferError`."""

    def __init__(self, error):
        import traceback

        super().__init__(error)
        self.__traceback__ = error.__traceback__
        self.reason = "".join(traceback.format_exception_only(error)).strip()

    def __reduce__(self):
        from . import futures

        return futures._transfer_error, (f"the call cannot be unpickled in the worker: {self.reason}",)
