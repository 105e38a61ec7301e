"""Pools of worker processes, and of threads.

`Pool` is the standard module's, on the engine: what a worker was doing when it died is known, a failing initializer is an error, iterators are taken only as
far ahead as the workers need, and tasks may have limits. Behaviour of what both have:
https://docs.python.org/3/library/multiprocessing.html#module-multiprocessing.pool
"""

import pickle
import traceback
import warnings
import weakref

from . import _engines, _reducers, get_context, util
from ._broody import should_stop  # noqa: F401  (for tasks that can end early)
from ._engines import terms as _terms
from ._results import ApplyResult, AsyncResult, IMapIterator, IMapUnorderedIterator, MapResult  # noqa: F401  (AsyncResult: for programs)

__all__ = ["Pool", "ThreadPool"]

INIT = "INIT"
RUN = "RUN"
CLOSE = "CLOSE"
TERMINATE = "TERMINATE"

# Of how many items a chunk is at most, where the caller does not say.
_LONGEST_CHUNK = 10_000


# Exceptions that come from workers


class RemoteTraceback(Exception):
    """The traceback of an exception in another process, as text: the exception's cause."""

    def __init__(self, tb):
        self.tb = tb

    def __str__(self):
        return self.tb


class ExceptionWithTraceback:
    """An exception on its way to another process, with its traceback as text."""

    def __init__(self, exc, tb):
        text = "".join(traceback.format_exception(type(exc), exc, tb))
        # What the traceback holds would otherwise live as long as the exception.
        exc.__traceback__ = None
        self.exc = exc
        self.tb = f'\n"""\n{text}"""'

    def __reduce__(self):
        return rebuild_exc, (self.exc, self.tb)


def rebuild_exc(exc, tb):
    exc.__cause__ = RemoteTraceback(tb)
    return exc


class MaybeEncodingError(Exception):
    """What a task gave, or raised, cannot be pickled or unpickled. `exc` and `value` are texts: why, and what it was."""

    def __init__(self, exc, value):
        self.exc = repr(exc)
        self.value = repr(value)
        super().__init__(self.exc, self.value)

    def __str__(self):
        return f"Error sending result: '{self.value}'. Reason: '{self.exc}'"

    def __repr__(self):
        return f"<{type(self).__name__}: {self}>"


def _raised(data):
    """The exception that a task raised."""
    if not data:
        return RuntimeError("a task raised an exception that its worker could not tell")
    return pickle.loads(data)


class Pool:
    """Processes that run functions.

    processes: how many; as many as CPUs may be used, if not given. A pair is a least and a greatest number: the pool grows while tasks wait.
    initializer, initargs: called in each worker before its first task. If it raises, the pool gives up after some tries with `PoolBrokenError`.
    maxtasksperchild: after so many tasks a worker is replaced.

    Beyond the standard module's:

    timeout: how long a task may run, in seconds. Then its worker is ended, and it fails with `TaskTimeoutError`.
    soft_timeout: after how many seconds a task is asked to stop: system calls are interrupted, and `broody.pool.should_stop()` is true in it.
    retries, backoff: how often a task is run again whose worker died; the seconds before the first retry, twice as many before each further one.
    retry_errors: whether a task that raises an exception, takes too long or too much memory is run again as well, as often as `retries` says. A task of `map` is a
    chunk. (Exceptions that pickle to more than 12 KiB are told at once.)
    memory_limit: how many bytes a task may take; then its worker is ended and it fails with `TaskMemoryError`.
    maxmemoryperchild: beyond so many bytes a worker is replaced.
    policy: 'fcfs', 'sjf', 'round_robin' or 'mlfq': whose turn it is.
    max_queue: how many tasks may wait; who hands in one more waits.
    idle_timeout: after how many seconds without work a worker ends, down to the least number.
    start_timeout: how long a worker may take until its initializer has returned, in seconds.
    name: what its workers are called in `ps`, in events and in traces; nice: by how much they give way to other processes; pin_cpus: whether each stays on one CPU.
    forward_logs: whether what workers log goes to this process's loggers.
    """

    @staticmethod
    def Process(ctx, *args, **kwds):
        return ctx.Process(*args, **kwds)

    def __init__(
        self,
        processes=None,
        initializer=None,
        initargs=(),
        maxtasksperchild=None,
        context=None,
        *,
        max_queue=None,
        **settings,
    ):
        # For __del__, if something is refused below.
        self._state = INIT
        self._ctx = context or get_context()
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        settings = {"max_queue": max_queue, **_engines.settings(maxtasksperchild, **settings)}
        forward, backward = getattr(self, "_forward_reducers", None), getattr(self, "_backward_reducers", None)
        begin = _reducers.Begin(backward, initializer) if backward else initializer
        self._begin(
            processes,
            initializer,
            lambda workers: _engines.make(self._ctx, workers, begin, initargs, settings),
        )
        if forward or backward:
            self._tasks = _reducers.Tasks(self._engine, forward or {})
        self._maxtasksperchild = maxtasksperchild
        self._initializer = initializer
        self._initargs = initargs

    def _begin(self, processes, initializer, make_engine):
        if processes is None:
            processes = _engines.cpus()
        least, most = processes if isinstance(processes, tuple) else (processes, processes)
        if most < 1:
            raise ValueError("Number of processes must be at least 1")
        _engines.check(initializer)
        self._processes = most
        self._engine = make_engine((least, most))
        # Where tasks are handed in.
        self._tasks = self._engine
        self._streams = weakref.WeakSet()
        self._traces = []
        self._terminate = util.Finalize(self, _engines.end, (self._engine,), exitpriority=15)
        self._state = RUN

    def __del__(self, _warn=warnings.warn, RUN=RUN):
        if self._state == RUN:
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)

    def __repr__(self):
        cls = type(self)
        return f"<{cls.__module__}.{cls.__qualname__} state={self._state} pool_size={self._processes}>"

    def __reduce__(self):
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __enter__(self):
        self._check_running()
        return self

    def __exit__(self, exc_type, exc_val, exc_tb):
        self.terminate()

    @property
    def _pool(self):
        """The workers."""
        return [_engines.Worker(self._engine, pid) for pid in self._engine.worker_pids()]

    @property
    def _cache(self):
        """What is not done yet, for programs that count it: a number for each task that was handed in."""
        stats = self._engine.stats()
        return dict.fromkeys(range(stats["waiting"] + stats.get("leased", 0)))

    def _repopulate_pool(self):
        """Nothing: workers that end are replaced at once."""

    def _check_running(self):
        if self._state != RUN:
            raise ValueError("Pool not running")

    # Handing in

    def apply(self, func, args=(), kwds={}):
        """`func(*args, **kwds)` in a worker."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func,
        args=(),
        kwds={},
        callback=None,
        error_callback=None,
        **terms,
    ):
        """`func(*args, **kwds)` in a worker, later. Gives an `AsyncResult`. What is said of the task goes before what the pool says."""
        self._check_running()
        return ApplyResult(self._tasks.apply(func, args, kwds, _terms(**terms)), callback, error_callback, self)

    def map(self, func, iterable, chunksize=None, *, progress=False, **terms):
        """The results of `func` for each item, in the items' order.

        progress: whether to show on the terminal how far it is, or what to call it there. By tqdm, if that is installed.
        """
        if progress:
            return self._map_shown(progress, func, iterable, False, chunksize, terms)
        return self._map_now(func, iterable, False, chunksize, terms)

    def map_async(self, func, iterable, chunksize=None, callback=None, error_callback=None, **terms):
        """As `map`, later. Gives an `AsyncResult`."""
        return self._map(func, iterable, False, chunksize, callback, error_callback, terms)

    def starmap(self, func, iterable, chunksize=None, *, progress=False, **terms):
        """As `map`; each item is a tuple of arguments."""
        if progress:
            return self._map_shown(progress, func, iterable, True, chunksize, terms)
        return self._map_now(func, iterable, True, chunksize, terms)

    def starmap_async(self, func, iterable, chunksize=None, callback=None, error_callback=None, **terms):
        """As `starmap`, later. Gives an `AsyncResult`."""
        return self._map(func, iterable, True, chunksize, callback, error_callback, terms)

    def _chunks(self, iterable, chunksize):
        self._check_running()
        if not hasattr(iterable, "__len__"):
            iterable = list(iterable)
        if chunksize is None:
            chunksize, extra = divmod(len(iterable), self._processes * 4)
            # Of very many items the first ones are run while the next ones are pickled.
            chunksize = min(chunksize + bool(extra), _LONGEST_CHUNK)
        return iterable, max(chunksize, 1)

    def _map_now(self, func, iterable, star, chunksize, terms):
        iterable, chunksize = self._chunks(iterable, chunksize)
        if chunksize == 1:
            return MapResult(self._tasks.map(func, iterable, star, 1, _terms(**terms)), 1).get()
        # Workers run the first chunks while the next ones are pickled.
        stream = self._tasks.imap(func, iterable, star, chunksize, True, None, _terms(**terms))
        results, failure = [], None
        while True:
            try:
                chunk = stream.take(None, None, None)
            except Exception as error:
                # All are run before the first one's error is told.
                failure = error if failure is None else failure
            else:
                if chunk is None:
                    break
                results += chunk
        if failure is None:
            return results
        try:
            raise failure
        finally:
            # See `AsyncResult.get`.
            del failure

    def _map_shown(self, progress, func, iterable, star, chunksize, terms):
        from ._progress import Bar

        is_cut_fine = chunksize is None
        iterable, chunksize = self._chunks(iterable, chunksize)
        if is_cut_fine:
            chunksize = max(min(chunksize, len(iterable) // 100), 1)
        with Bar(progress, len(iterable)) as bar:
            tell = lambda done, _: bar.show(min(done * chunksize, len(iterable)))  # noqa: E731
            pending = self._tasks.map(func, iterable, star, chunksize, _terms(**terms), tell)
            try:
                return MapResult(pending, chunksize).get()
            finally:
                # The last word comes from there.
                self._engine.join_callbacks()

    def _map(self, func, iterable, star, chunksize, callback, error_callback, terms):
        iterable, chunksize = self._chunks(iterable, chunksize)
        pending = self._tasks.map(func, iterable, star, chunksize, _terms(**terms))
        return MapResult(pending, chunksize, callback, error_callback, self)

    def imap(self, func, iterable, chunksize=1, *, buffersize=None, progress=False, **terms):
        """An iterator over the results, in the items' order. Items are taken as results are asked for, only as far ahead as the workers need, and at most
        `buffersize` of them. `progress` as for `map`."""
        return self._imap(IMapIterator, func, iterable, chunksize, True, buffersize, progress, terms)

    def imap_unordered(self, func, iterable, chunksize=1, *, buffersize=None, progress=False, **terms):
        """As `imap`, each result as soon as it is there."""
        return self._imap(IMapUnorderedIterator, func, iterable, chunksize, False, buffersize, progress, terms)

    def _imap(self, kind, func, iterable, chunksize, ordered, buffersize, progress, terms):
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
        if buffersize is not None and buffersize < 1:
            raise ValueError(f"buffersize must be None or 1+, not {buffersize:n}")
        chunks = None if buffersize is None else max(buffersize // chunksize, 1)
        stream = self._tasks.imap(func, iterable, False, chunksize, ordered, chunks, _terms(**terms))
        self._streams.add(iterator := kind(stream, chunksize, self))
        if progress:
            from ._progress import shown

            return shown(iterator, progress, iterable)
        return iterator

    def trace(self, path):
        """Writes what happens from now on as a timeline, for https://ui.perfetto.dev: at the end of the pool, or of `with pool.trace(path):`.

        As long as it is kept each task is measured, which costs it some microseconds.
        """
        self._check_running()
        trace = _engines.Trace(self._engine, path)
        self._traces.append(trace)
        return trace

    # The end

    def close(self):
        """Takes no more tasks. The workers end when those that there are are done."""
        if self._state == RUN:
            self._state = CLOSE
            self._engine.close()

    def terminate(self):
        """Ends the workers at once."""
        self._state = TERMINATE
        self._terminate()
        self._write_traces()

    def join(self):
        """Waits until the workers have ended."""
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._state not in (CLOSE, TERMINATE):
            raise ValueError("In unknown state")
        if self._state == CLOSE:
            # What iterators have not taken yet belongs to what is to be done.
            for iterator in list(self._streams):
                iterator._stream.hand_in_all()
        self._engine.join()
        _engines.after_end(self._engine)
        self._write_traces()

    def _write_traces(self):
        while self._traces:
            self._traces.pop().close()

    def stats(self):
        """How the pool stands, and what it has done: numbers by name."""
        return self._engine.stats()


class ThreadPool(Pool):
    """Threads of this process that run functions: the same face."""

    @staticmethod
    def Process(ctx, *args, **kwds):
        from .dummy import Process

        return Process(*args, **kwds)

    def __init__(self, processes=None, initializer=None, initargs=()):
        from ._threads import Threads

        self._state = INIT
        self._begin(processes, initializer, lambda workers: Threads(workers[1], initializer, initargs))

    @property
    def _pool(self):
        return list(self._engine.threads)
