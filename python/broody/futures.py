"""Executors: the face of `concurrent.futures`, on the engine.

`ProcessPoolExecutor` is the standard module's, of whatever Python it runs on, with what newer ones have: futures are real ones, for `as_completed`, `wait`
and asyncio. A worker that dies fails its own future only; calls may have limits and retries.
Behaviour of what both have: https://docs.python.org/3/library/concurrent.futures.html

Who waits for a future's result takes it himself. It is pushed, by a thread of the engine's, only to futures that somebody listens to: by a callback,
`wait()`, `as_completed()`, an event loop.
"""

import os
import sys
import time
import weakref
from concurrent import futures as _standard
from concurrent.futures._base import CANCELLED, CancelledError

from . import _engines, context, exceptions, get_context, util
from .pool import RemoteTraceback

__all__ = ["Future", "ProcessPoolExecutor"]

# How long workers have after SIGTERM, in seconds.
_GRACE = 5.0


# Errors that programs catch as the standard's


def _standing_for(name):
    """The class of this name, which is `broody.exceptions`' and the standard's `BrokenProcessPool`. Made when it is needed: the latter's module costs time."""
    from concurrent.futures.process import BrokenProcessPool

    ours = getattr(exceptions, name)
    made = type(name, (ours, BrokenProcessPool), {"__doc__": ours.__doc__, "__module__": __name__})
    return globals().setdefault(name, made)


_BROKEN = ("WorkerLostError", "PoolBrokenError", "PoolTerminatedError", "TransferError")


def __getattr__(name):
    if name in _BROKEN:
        return _standing_for(name)
    if name == "BrokenProcessPool":
        from concurrent.futures.process import BrokenProcessPool

        return BrokenProcessPool
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _as_standard(error):
    """The error for a future: with the standard's classes, where programs may ask for them."""
    kind = type(error)
    if type(error.__cause__) is RemoteTraceback and (standard := sys.modules.get("concurrent.futures.process")):
        error.__cause__ = standard._RemoteTraceback(error.__cause__.tb)
    if kind.__module__ == exceptions.__name__ and kind.__name__ in _BROKEN:
        standing = globals().get(kind.__name__) or _standing_for(kind.__name__)
        made = standing(*error.args)
        made.__cause__ = error.__cause__
        return made
    return error


def _was_cancelled(error):
    """Whether the engine says so; what a task raised of this kind comes with the traceback of its process."""
    return type(error) is exceptions.TaskCancelledError and error.__cause__ is None


def _transfer_error(message):
    return (globals().get("TransferError") or _standing_for("TransferError"))(message)


def _untransferred(error):
    """The exception for a result that cannot be unpickled."""
    if not isinstance(error, (Exception, SystemExit)):
        return error
    made = _transfer_error(f"the result of the call cannot be unpickled: {type(error).__name__}: {error}")
    made.__cause__ = error
    return made


# Futures


class Future(_standard.Future):
    """The result of a call that was submitted: the standard's future, which can also be awaited, and ended while it runs."""

    def __init__(self, pending=None, cancels_running=False):
        self._pending = None
        super().__init__()
        self._is_pushed = False
        self._cancels_running = cancels_running
        self._pending = pending

    # As long as nobody listens, the result is taken when it is asked for.

    def _look(self):
        # Another thread may take it meanwhile.
        pending = self._pending
        if pending is not None and not self._is_pushed and pending.ready():
            self._settle()

    @property
    def _waiters(self):
        # `wait` and `as_completed` enter themselves here. They have looked at the state, under the lock of every future: it must not change before.
        if self._pending is not None:
            self._push()
        return self.__dict__["_waiters"]

    @_waiters.setter
    def _waiters(self, waiters):
        self.__dict__["_waiters"] = waiters

    def _push(self, enter=None):
        """From now on the engine's thread brings the result; `enter()` before it does."""
        with self._condition:
            pending = None if self._is_pushed else self._pending
            self._is_pushed = True
        if enter is not None:
            enter()
        if pending is not None:
            pending.on_done(self._settle)

    def _settle(self):
        """The task is over: takes its result."""
        with self._condition:
            pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            value = pending.outcome()
        except BaseException as error:
            if _was_cancelled(error):
                self._give_up()
            else:
                self._finish(self.set_exception, _as_standard(error))
        else:
            self._finish(self.set_result, value)

    def _finish(self, set_outcome, outcome):
        try:
            set_outcome(outcome)
        except _standard.InvalidStateError:
            # Cancelled in this moment.
            pass

    def _give_up(self):
        """The task was cancelled: so is this."""
        self._pending = None
        super().cancel()
        with self._condition:
            if self._state == CANCELLED:
                self.set_running_or_notify_cancel()

    def _await(self, timeout):
        """Waits where nobody listens, and takes the result. What is left of the time."""
        pending = self._pending
        if pending is None or self._is_pushed:
            return timeout
        began = time.monotonic()
        if pending.wait(timeout) and not self._is_pushed:
            self._settle()
        return timeout and max(timeout - (time.monotonic() - began), 0)

    # The standard's face

    def result(self, timeout=None):
        """What the call returned; raises what it raised, `CancelledError`, or `TimeoutError` if it is not over in `timeout` seconds."""
        return super().result(self._await(timeout))

    def exception(self, timeout=None):
        """What the call raised, or None; otherwise as `result`."""
        return super().exception(self._await(timeout))

    def add_done_callback(self, fn):
        """Calls `fn(future)` when it is over: in a thread of the engine's, or here if its result has been taken already."""
        # Not here if it is only just over: a callback that submits the next call would go ever deeper.
        self._push(lambda: super(Future, self).add_done_callback(fn))

    def done(self):
        """Whether it is over, or cancelled."""
        self._look()
        return super().done()

    def cancelled(self):
        """Whether it was given up."""
        self._look()
        return super().cancelled()

    def __repr__(self):
        self._look()
        return super().__repr__()

    def running(self):
        """Whether a worker runs it."""
        pending = self._pending
        return super().running() if pending is None else pending.is_running()

    def cancel(self):
        """Gives the call up, if it has not begun. Whether it is given up. (`terminate` ends one that runs.)"""
        if self._cancels_running:
            return self.terminate()
        pending = self._pending
        if pending is None:
            return super().cancel()
        if not pending.revoke():
            # It runs, or it is over.
            return self.cancelled()
        self._give_up()
        return True

    def terminate(self):
        """Gives the call up, also if it runs: its worker is ended and replaced. Whether it was not over yet; it is cancelled then."""
        pending = self._pending
        if pending is None:
            return super().cancel()
        if not pending.cancel():
            return self.cancelled()
        pending.wait()
        self._settle()
        return self.cancelled()

    def _abandon(self):
        """As `terminate`, without waiting for the worker's end."""
        if (pending := self._pending) is not None:
            pending.cancel()

    def __await__(self):
        """Waits in an event loop of asyncio. Whoever is cancelled while he waits ends the call, also if it runs."""
        import asyncio

        mine = asyncio.wrap_future(self)
        try:
            return (yield from mine)
        finally:
            # Not waited for here: the loop has other things to do.
            if mine.cancelled():
                self._abandon()

    def __reduce__(self):
        raise TypeError("futures cannot be passed between processes or pickled")


# Executors


class _Face(_standard.Executor):
    """What an executor and its `options` have in common."""

    def submit(self, fn, /, *args, **kwargs):
        """Calls `fn(*args, **kwargs)` in a worker, later. Gives its `Future`."""
        return self._executor._submit(fn, args, kwargs, self._terms, self._cancels_running)

    def map(self, fn, *iterables, timeout=None, chunksize=1, buffersize=None):
        """An iterator over what `fn` gives for items of the iterables, in their order; it ends with the shortest of them.

        timeout: after how many seconds from now on the results must be there; `TimeoutError` then.
        chunksize: how many items are one task.
        buffersize: how many items are taken ahead at most; all of them, at once, if not given.
        """
        return self._executor._map(fn, iterables, timeout, chunksize, buffersize, self._terms)

    def options(self, *, cancel_running=None, **terms):
        """This executor, with other terms for what is submitted through what this gives: those of `broody.Pool.apply_async`. `executor.options(timeout=5).submit(f)`

        cancel_running: `cancel()` of a future also ends a call that runs.
        """
        said = {**(self._terms or {}), **(_engines.terms(**terms) or {})}
        cancels = self._cancels_running if cancel_running is None else cancel_running
        return _Options(self._executor, said or None, cancels)


class _Options(_Face):
    """An executor with other terms."""

    def __init__(self, executor, terms, cancels_running):
        self._executor, self._terms, self._cancels_running = executor, terms, cancels_running

    def shutdown(self, wait=True, *, cancel_futures=False):
        self._executor.shutdown(wait, cancel_futures=cancel_futures)

    def __repr__(self):
        return f"<options of {self._executor!r}>"


class ProcessPoolExecutor(_Face):
    """Processes that run calls.

    max_workers: how many; as many as CPUs may be used, if not given. With `fork` all are started at the first call, otherwise as they are needed.
    mp_context: a context of `broody` or of `multiprocessing`, for its start method.
    initializer, initargs: called in each worker before its first call. If it fails, the executor is broken.
    max_tasks_per_child: after so many calls a worker is replaced.

    Beyond the standard module's: `timeout`, `soft_timeout`, `retries`, `retry_errors`, `backoff`, `memory_limit` of each call, `maxmemoryperchild`, `policy`,
    `idle_timeout`, `start_timeout`, `name`, `nice`, `pin_cpus` and `forward_logs` as for `broody.Pool`; `cancel_running` as for `options`.
    """

    _terms = None

    def __init__(
        self,
        max_workers=None,
        mp_context=None,
        initializer=None,
        initargs=(),
        *,
        max_tasks_per_child=None,
        cancel_running=False,
        **settings,
    ):
        if max_workers is None:
            max_workers = _engines.cpus()
        elif max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
        _engines.check(initializer)
        if mp_context is None:
            # As the standard's, which cannot replace workers that are forks.
            mp_context = get_context("spawn" if max_tasks_per_child is not None else None)
        self._executor = self
        self._max_workers = max_workers
        self._mp_context = mp_context
        self._method = mp_context.get_start_method()
        self._initializer, self._initargs = initializer, initargs
        self._max_tasks_per_child = max_tasks_per_child
        self._cancels_running = cancel_running
        self._settings = _engines.settings(max_tasks_per_child, **settings)
        self._engine = None
        self._is_shut_down = False
        self._lock = util.ForkAwareThreadLock()
        # Iterators of `map` that may still hand in something.
        self._streams = weakref.WeakSet()
        self._end = None
        self._traces = []

    def __repr__(self):
        state = "shut down" if self._is_shut_down else "broken" if self._broken else "open"
        return f"<{type(self).__module__}.{type(self).__qualname__} state={state} max_workers={self._max_workers}>"

    def __reduce__(self):
        raise TypeError("executors cannot be passed between processes or pickled")

    def _running(self):
        """The engine, which is started if there is none yet."""
        engine = self._engine
        if engine is None or self._is_shut_down:
            with self._lock:
                self._check_open()
                if self._engine is None:
                    self._start()
                engine = self._engine
        return engine

    def _check_open(self):
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if util.is_exiting():
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    def _start(self):
        _sweep()
        _watch_exit()
        most = self._max_workers
        least = most if self._method == "fork" else 1
        worker_context = context._concrete_contexts[self._method]
        initializer, initargs = self._initializer, self._initargs
        if initializer is not None:
            initializer, initargs = _initialize, (initializer, initargs)
        self._engine = _engines.make(worker_context, (least, most), initializer, initargs, self._settings)
        # When it is forgotten, and at the end of the program: what was submitted is done.
        self._end = util.Finalize(self, _let_go, (self._engine, self._streams), exitpriority=20)

    def _submit(self, fn, args, kwargs, terms, cancels_running):
        engine = self._running()
        try:
            pending = engine.submit(fn, args, kwargs, terms)
        except (ValueError, exceptions.ProcessError) as error:
            raise self._refusal(error) from None
        if isinstance(pending, BaseException):
            # It cannot be pickled.
            future = Future()
            future.set_exception(pending)
            return future
        return Future(pending, cancels_running)

    def _refusal(self, error):
        """Why nothing can be submitted."""
        if _is_closed(error) or isinstance(error, exceptions.PoolTerminatedError):
            after = "interpreter shutdown" if util.is_exiting() else "shutdown"
            return RuntimeError(f"cannot schedule new futures after {after}")
        return _as_standard(error)

    def _map(self, fn, iterables, timeout, chunksize, buffersize, terms):
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None:
            if not isinstance(buffersize, int):
                raise TypeError("buffersize must be an integer or None")
            if buffersize < 1:
                raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else time.monotonic() + timeout
        star = len(iterables) != 1
        items = zip(*iterables) if star else iter(iterables[0])
        chunks = None if buffersize is None else max(buffersize // chunksize, 1)
        engine = self._running()
        try:
            stream = engine.imap(fn, items, star, chunksize, True, chunks, terms, True)
        except (ValueError, exceptions.ProcessError) as error:
            raise self._refusal(error) from None
        except Exception as error:
            # The function cannot be pickled.
            return _raising(error)
        # Also if nobody asks for a result.
        stream.keep_going(True)
        if buffersize is None:
            stream.hand_in_all()
        else:
            self._streams.add(stream)
            stream.begin()
        results = _results(stream, deadline)
        return results if chunksize == 1 else _each(results)

    def shutdown(self, wait=True, *, cancel_futures=False):
        """Takes no more calls. The workers end when those that there are are done, for which it waits if `wait`.

        cancel_futures: those that have not begun are given up.
        """
        with self._lock:
            self._is_shut_down = True
            engine, self._initializer, self._initargs = self._engine, None, ()
        if engine is None:
            return
        _take_no_more(engine, self._streams)
        if cancel_futures:
            engine.cancel_waiting()
        if wait:
            _finish(engine)
            self._end.cancel()
            while self._traces:
                self._traces.pop().close()
        else:
            _ending.add(engine)

    def terminate_workers(self):
        """Takes no more calls, and ends the workers: SIGTERM, and SIGKILL after 5 seconds. Calls that are not over fail. (New in Python 3.14; here for all.)"""
        self._end_workers(lambda engine: engine.terminate_within(_GRACE))

    def kill_workers(self):
        """Takes no more calls, and ends the workers: SIGKILL. Calls that are not over fail. (New in Python 3.14; here for all.)"""
        self._end_workers(lambda engine: engine.terminate())

    def _end_workers(self, end):
        with self._lock:
            self._is_shut_down = True
            engine = self._engine
        if engine is not None:
            end(engine)
            _ending.add(engine)

    def stats(self):
        """How it stands, and what it has done: numbers by name, as `Pool.stats`."""
        return {} if self._engine is None else self._engine.stats()

    def trace(self, path):
        """As `Pool.trace`."""
        self._traces.append(trace := _engines.Trace(self._running(), path))
        return trace

    # What programs know of the standard's by these names

    @property
    def _processes(self):
        if self._engine is None or self._engine.broken():
            return {}
        return {pid: _engines.Worker(self._engine, pid) for pid in self._engine.pids_at_work()}

    @property
    def _executor_manager_thread(self):
        return None if self._engine is None else _Manager(self._engine)

    @property
    def _call_queue(self):
        return None if self._engine is None else _Calls()

    @property
    def _broken(self):
        return (self._engine is not None and self._engine.broken()) or False


class _Manager:
    """What the standard's executors have a thread for. It ends with the workers."""

    def __init__(self, engine):
        self._engine = engine

    def join(self, timeout=None):
        self._engine.join(timeout)


class _Calls:
    """What the standard's executors have a queue for: no thread feeds it."""

    def close(self):
        pass

    def join_thread(self):
        pass


def _results(stream, deadline):
    """What tasks give, one after the other. Whoever has begun with it and stops gives up what has not begun."""
    stream.keep_going(False)
    try:
        while True:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            try:
                # In a list, so that nothing of it stays here.
                result = [stream.take(left, _LATE, _END)]
            except Exception as error:
                if _is_closed(error):
                    raise RuntimeError("cannot schedule new futures after shutdown") from None
                told = CancelledError() if _was_cancelled(error) else _as_standard(error)
                raise told from told.__cause__
            if result[0] is _END:
                return
            if result[0] is _LATE:
                raise TimeoutError
            yield result.pop()
    finally:
        stream.forget()


_LATE, _END = object(), object()


def _is_closed(error):
    """Whether the engine says that it takes no more."""
    return type(error) is ValueError and error.args == ("Pool not running",) and error.__cause__ is None


def _raising(error):
    """An iterator whose first result is this error."""
    raise error
    yield


def _each(chunks):
    """What is in lists, and nothing of it stays here."""
    for chunk in chunks:
        chunk.reverse()
        while chunk:
            yield chunk.pop()


def _initialize(initializer, initargs):
    """In a worker. The standard's tells of failures so."""
    try:
        initializer(*initargs)
    except BaseException:
        import logging

        logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)
        raise


# The end

# Engines that take no more calls, and have not done all that they have.
_ending = set()
# They are this process's own.
os.register_at_fork(after_in_child=_ending.clear)

_watched_by = None


def _watch_exit():
    """What was submitted is done before the program ends."""
    global _watched_by
    if _watched_by != os.getpid():
        _watched_by = os.getpid()
        util.Finalize(None, _finish_all, exitpriority=19)


def _take_no_more(engine, streams):
    for stream in list(streams):
        stream.stop()
    engine.close()


def _let_go(engine, streams):
    """The executor is forgotten, or the program ends."""
    _take_no_more(engine, streams)
    if util.is_exiting():
        _finish(engine)
    else:
        _ending.add(engine)


def _finish(engine):
    """Waits until everything is done, callbacks included."""
    engine.join()
    engine.join_callbacks()
    _engines.after_end(engine)
    _ending.discard(engine)


def _sweep():
    """Forgets those that have ended."""
    for engine in list(_ending):
        if engine.join(0):
            _engines.after_end(engine)
            _ending.discard(engine)


def _finish_all():
    for engine in list(_ending):
        _finish(engine)
