"""Pools of worker processes, and of threads.

`Pool` is the standard module's, on the engine: what a worker was doing when it died is known, a failing initializer is an error, iterators are taken only as
far ahead as the workers need, and tasks may have limits. Behaviour of what both have:
https://docs.python.org/3/library/multiprocessing.html#module-multiprocessing.pool
"""

import itertools
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
import warnings
import weakref

from . import TimeoutError, _broody, _reducers, _runtime, get_context, process, util
from ._broody import should_stop  # noqa: F401  (for tasks that can end early)

__all__ = ["Pool", "ThreadPool"]

INIT = "INIT"
RUN = "RUN"
CLOSE = "CLOSE"
TERMINATE = "TERMINATE"


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


# What a worker begins with

# In the host: what workers that are forks of it find here. By the pool's number.
_forked_with = {}
_numbers = itertools.count(1)


class _Worker:
    """A worker process, as far as `Pool._pool` shows it."""

    def __init__(self, pool, pid):
        self._pool = pool
        self.pid = self.ident = pid
        self.daemon = True

    def is_alive(self):
        return self.pid in self._pool.worker_pids()

    def _signal(self, number):
        # Its pid is its own as long as the pool knows it.
        if self.is_alive():
            os.kill(self.pid, number)

    def terminate(self):
        self._signal(signal.SIGTERM)

    def kill(self):
        self._signal(signal.SIGKILL)

    def join(self, timeout=None):
        """Waits until it has ended, at most for `timeout` seconds."""
        from .connection import wait

        if not self.is_alive():
            return
        try:
            sentinel = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            wait([sentinel], timeout)
        finally:
            os.close(sentinel)

    @property
    def exitcode(self):
        return None if self.is_alive() else 0

    def __repr__(self):
        return f"<worker pid={self.pid}>"


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
        timeout=None,
        soft_timeout=None,
        retries=None,
        retry_errors=None,
        backoff=None,
        memory_limit=None,
        maxmemoryperchild=None,
        policy=None,
        max_queue=None,
        idle_timeout=None,
        start_timeout=None,
        name=None,
        nice=None,
        pin_cpus=None,
        forward_logs=False,
    ):
        # For __del__, if something is refused below.
        self._state = INIT
        self._ctx = context or get_context()
        if processes is None:
            processes = _cpus()
        least, most = processes if isinstance(processes, tuple) else (processes, processes)
        if most < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._processes = most
        self._maxtasksperchild = maxtasksperchild
        self._initializer = initializer
        self._initargs = initargs
        settings = {
            "name": name,
            "tasks": _terms(timeout, soft_timeout, retries, backoff, memory_limit, retry_errors=retry_errors),
            "tasks_per_worker": maxtasksperchild,
            "memory_per_worker": maxmemoryperchild,
            "idle_timeout": idle_timeout,
            "start_timeout": start_timeout,
            "max_queue": max_queue,
            "nice": nice,
            "pin_cpus": pin_cpus,
            "policy": policy,
        }
        forward, backward = getattr(self, "_forward_reducers", None), getattr(self, "_backward_reducers", None)
        if backward:
            initializer = _reducers.Begin(backward, initializer)
        self._engine = _make_engine(self._ctx, (least, most), initializer, initargs, settings, forward_logs)
        # Where tasks are handed in.
        self._tasks = _reducers.Tasks(self._engine, forward or {}) if forward or backward else self._engine
        self._streams = weakref.WeakSet()
        self._traces = []
        self._terminate = util.Finalize(self, _end, (self._engine,), exitpriority=15)
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
        return [_Worker(self._engine, pid) for pid in self._engine.worker_pids()]

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
        *,
        timeout=None,
        soft_timeout=None,
        retries=None,
        retry_errors=None,
        backoff=None,
        memory_limit=None,
        cost=None,
        priority=None,
    ):
        """`func(*args, **kwds)` in a worker, later. Gives an `AsyncResult`. What is said of the task goes before what the pool says."""
        self._check_running()
        terms = _terms(timeout, soft_timeout, retries, backoff, memory_limit, cost, priority, retry_errors)
        return ApplyResult(self._tasks.apply(func, args, kwds, terms), callback, error_callback)

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
        return MapResult(pending, chunksize, callback, error_callback)

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
        self._streams.add(iterator := kind(stream, chunksize))
        if progress:
            from ._progress import shown

            return shown(iterator, progress, iterable)
        return iterator

    def trace(self, path):
        """Writes what happens from now on as a timeline, for https://ui.perfetto.dev: at the end of the pool, or of `with pool.trace(path):`.

        As long as it is kept each task is measured, which costs it some microseconds.
        """
        self._check_running()
        trace = Trace(self._engine, path)
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
        _after_end(self._engine)
        self._write_traces()

    def _write_traces(self):
        while self._traces:
            self._traces.pop().close()

    def stats(self):
        """How the pool stands, and what it has done: numbers by name."""
        return self._engine.stats()


# Of how many items a chunk is at most, where the caller does not say.
_LONGEST_CHUNK = 10_000


def _make_engine(ctx, workers, initializer, initargs, settings, forward_logs=False):
    """The engine of a pool, which has started its workers."""
    method = ctx.get_start_method()
    _runtime.prepare(method)
    util._before_start(method)
    _look_at_main()
    # The numbers that its workers' `_identity` begins with: as if each were a Process that this one has made.
    first = next(process._process_counter)
    for _ in range(workers[1] - 1):
        next(process._process_counter)
    from . import _worker

    logs = None
    if forward_logs:
        from ._logs import Forwarding

        logs = Forwarding(ctx)
    begin = _worker.Begin(initializer, initargs, method, first, logs and logs.source, settings)
    number = next(_numbers)
    encode = begin.encode
    if method == "fork":
        _forked_with[number] = begin
        encode = lambda: b"%d" % number  # noqa: E731
    try:
        engine = _broody.Pool(method, workers, encode, settings)
    except BaseException:
        _forked_with.pop(number, None)
        raise
    util.Finalize(engine, _forked_with.pop, (number, None))
    if logs:
        logs.begin()
        _forwardings[engine] = logs
    return engine


# The logs of engines whose workers' are forwarded.
_forwardings = weakref.WeakKeyDictionary()


def _after_end(engine):
    """When the workers have ended: what they have logged is told."""
    if (logs := _forwardings.pop(engine, None)) is not None:
        logs.end()


def _end(engine):
    engine.terminate()
    engine.join()
    _after_end(engine)


class Trace:
    """What happens in a pool, written to a file when this is closed: at the end of `with`, with the pool, or with the program."""

    def __init__(self, engine, path):
        self._trace = engine.trace()
        self._path = os.fspath(path)
        self._end = util.Finalize(self, self._trace.write, (self._path,), exitpriority=10)

    def write(self):
        """Writes what there is so far."""
        self._trace.write(self._path)

    def close(self):
        """Writes it, for the last time."""
        self._end()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def _look_at_main():
    """Where the main module is a file, what is defined there is found in workers by its name."""
    main = sys.modules.get("__main__")
    if getattr(main, "__file__", None) is None:
        from . import _by_value

        _by_value.look_at_main()


def _cpus():
    count = getattr(os, "process_cpu_count", None)
    return (count() if count else len(os.sched_getaffinity(0))) or 1


def _terms(
    timeout=None,
    soft_timeout=None,
    retries=None,
    backoff=None,
    memory_limit=None,
    cost=None,
    priority=None,
    retry_errors=None,
):
    """What is said of tasks; None if it is nothing."""
    terms = {
        "timeout": timeout,
        "soft_timeout": soft_timeout,
        "retries": retries,
        "retry_errors": retry_errors,
        "backoff": backoff,
        "memory_limit": memory_limit,
        "cost": cost,
        "priority": priority,
    }
    return terms if any(value is not None for value in terms.values()) else None


# Results


class AsyncResult:
    """The result of a task that was handed in."""

    def __init__(self, pending, callback=None, error_callback=None):
        self._pending = pending
        self._outcome = None
        self._callbacks = (callback, error_callback)
        if callback or error_callback:
            self._lock = threading.Lock()
            pending.on_done(self._settle)

    def ready(self):
        """Whether the task is over."""
        return self._outcome is not None or self._pending.ready()

    def successful(self):
        """Whether it returned. It must be over."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        self._settle()
        return self._outcome[0]

    def wait(self, timeout=None):
        """Waits until the task is over, at most for `timeout` seconds."""
        if self._outcome is None and self._pending.wait(timeout):
            self._settle()

    def get(self, timeout=None):
        """What the task returned; raises what it raised, and `TimeoutError` if it is not over in `timeout` seconds."""
        self.wait(timeout)
        if self._outcome is None:
            raise TimeoutError
        success, value = self._outcome
        if success:
            return value
        try:
            raise value
        finally:
            # The traceback has this frame, which must not have the exception: nobody but the garbage collector would let go of it.
            del self, value

    def cancel(self):
        """Gives the task up; a worker that runs it is ended and replaced. Whether it was not over yet."""
        return self._pending.cancel()

    def __await__(self):
        """Waits in an event loop of asyncio. Whoever is cancelled while he waits ends the task, also if it runs."""
        if not self.ready():
            yield from _looped(self._pending.on_done, self.cancel).__await__()
        return self.get()

    def _settle(self):
        """Takes the result, and calls the callback: whoever comes first, the engine's thread or who waits."""
        if self._callbacks == (None, None):
            self._take()
            return
        with self._lock:
            if self._outcome is None:
                self._take(*self._callbacks)

    def _take(self, callback=None, error_callback=None):
        if self._outcome is not None:
            return
        try:
            outcome = (True, self._value(self._pending.get()))
        except BaseException as error:
            # Without this frame, which has what is told.
            outcome = (False, error.with_traceback(error.__traceback__.tb_next))
        try:
            call = callback if outcome[0] else error_callback
            if call:
                call(outcome[1])
        except BaseException:
            traceback.print_exc()
        self._outcome = outcome

    def _value(self, answers):
        return answers[0]

    def __class_getitem__(cls, item):
        import types

        return types.GenericAlias(cls, item)


async def _looped(call_when_done, cancel):
    """Waits in an event loop until the engine's thread calls what `call_when_done` is given. `cancel()` if the wait is cancelled."""
    import asyncio

    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def wake():
        if not done.done():
            done.set_result(None)

    def called():
        try:
            loop.call_soon_threadsafe(wake)
        except RuntimeError:
            # The loop is closed: nobody waits any more.
            pass

    call_when_done(called)
    try:
        await done
    except asyncio.CancelledError:
        cancel()
        raise


ApplyResult = AsyncResult


class MapResult(AsyncResult):
    """The results of tasks that were handed in together."""

    def __init__(self, pending, chunksize, callback=None, error_callback=None):
        self._chunksize = chunksize
        super().__init__(pending, callback, error_callback)

    def _value(self, answers):
        if self._chunksize == 1:
            return answers
        return list(itertools.chain.from_iterable(answers))


class IMapIterator:
    """Results as they come."""

    def __init__(self, stream, chunksize=1):
        self._stream = stream
        self._chunksize = chunksize
        self._chunk = iter(())

    def __iter__(self):
        return self

    def next(self, timeout=None):
        """The next result; `TimeoutError` if it is not there in `timeout` seconds."""
        if self._chunksize == 1:
            return self._stream.next(timeout)
        for result in self._chunk:
            return result
        self._chunk = iter(self._stream.next(timeout))
        return next(self._chunk)

    __next__ = next

    def __aiter__(self):
        return self

    async def __anext__(self):
        """The next result, in an event loop of asyncio. Whoever is cancelled while he waits ends the tasks, also those that run."""
        while True:
            for result in self._chunk:
                return result
            result = self._stream.take(0, _LATE, _END)
            if result is _END:
                raise StopAsyncIteration
            if result is _LATE:
                await _looped(self._stream.on_ready, self._stream.cancel)
            elif self._chunksize == 1:
                return result
            else:
                self._chunk = iter(result)


_LATE, _END = object(), object()


class IMapUnorderedIterator(IMapIterator):
    """Results as they come, in whatever order."""


# Threads


class ThreadPool(Pool):
    """Threads of this process that run functions: the same face."""

    @staticmethod
    def Process(ctx, *args, **kwds):
        from .dummy import Process

        return Process(*args, **kwds)

    def __init__(self, processes=None, initializer=None, initargs=()):
        self._state = INIT
        if processes is None:
            processes = _cpus()
        if processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._processes = processes
        self._engine = self._tasks = _Threads(processes, initializer, initargs)
        self._streams = weakref.WeakSet()
        self._traces = []
        self._terminate = util.Finalize(self, _end, (self._engine,), exitpriority=15)
        self._state = RUN

    @property
    def _pool(self):
        return list(self._engine.threads)


class _Threads:
    """What a pool of threads asks of its engine."""

    def __init__(self, count, initializer, initargs):
        self.tasks = queue.SimpleQueue()
        self.terminated = False
        self.done = 0
        from .dummy import Process

        self.threads = [
            Process(target=self.work, args=(initializer, initargs)) for _ in range(count)
        ]
        for thread in self.threads:
            thread.daemon = True
            thread.start()

    def work(self, initializer, initargs):
        if initializer is not None:
            initializer(*initargs)
        while (task := self.tasks.get()) is not None:
            if not self.terminated:
                task()
                self.done += 1
            del task

    def apply(self, function, arguments, keywords, terms):
        pending = _Gathered(1)
        self.tasks.put(lambda: pending.run(0, lambda: function(*arguments, **keywords)))
        return pending

    def map(self, function, items, star, chunk_size, terms, tell=None):
        call = (lambda item: function(*item)) if star else function
        chunks = list(_chunks(items, chunk_size))
        pending = _Gathered(len(chunks), tell)
        for index, chunk in enumerate(chunks):
            if chunk_size == 1:
                run = lambda chunk=chunk: call(chunk[0])  # noqa: E731
            else:
                run = lambda chunk=chunk: [call(item) for item in chunk]  # noqa: E731
            self.tasks.put(lambda index=index, run=run: pending.run(index, run))
        return pending

    def imap(self, function, items, star, chunk_size, ordered, most, terms):
        return _Streamed(self, function, star, iter(items), chunk_size, ordered, most)

    def join_callbacks(self):
        """They run in the threads that have the results, before these are there."""

    def trace(self):
        raise ValueError("a pool of threads has no trace: its tasks are this process's own")

    def worker_pids(self):
        return [os.getpid()]

    def stats(self):
        return {"workers": len(self.threads), "waiting": self.tasks.qsize(), "done": self.done}

    def close(self):
        """The threads end when they are waited for: iterators may hand in more until then."""

    def terminate(self):
        self.terminated = True
        self.end()

    def end(self):
        for _ in self.threads:
            self.tasks.put(None)

    def join(self):
        if self.terminated:
            # A thread cannot be ended: it does when its task is over, and keeps nobody waiting until then.
            return
        self.end()
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join()


def _chunks(items, size):
    items = iter(items)
    while chunk := list(itertools.islice(items, size)):
        yield chunk


class _Gathered:
    """The answers of a fixed number of tasks."""

    def __init__(self, count, tell=None):
        self.tell = tell
        self.answers = [None] * count
        self.error = None
        self.missing = count
        self.changed = threading.Condition()
        self.cancelled = False
        self.callbacks = []

    def run(self, index, task):
        answer, error = None, None
        try:
            if self.cancelled:
                from .exceptions import TaskCancelledError

                raise TaskCancelledError._of(index)
            answer = task()
        except Exception as raised:
            error = raised
        with self.changed:
            self.answers[index] = answer
            self.error = self.error or error
            if self.tell is not None:
                self.tell(len(self.answers) - self.missing + 1, len(self.answers))
            self.missing -= 1
            callbacks = self.callbacks if self.missing == 0 else ()
            self.changed.notify_all()
        for callback in callbacks:
            callback()

    def ready(self):
        return self.missing == 0

    def wait(self, timeout=None):
        with self.changed:
            return self.changed.wait_for(self.ready, timeout)

    def get(self, timeout=None):
        if not self.wait(timeout):
            return None
        if self.error is not None:
            raise self.error
        return self.answers

    def cancel(self):
        self.cancelled = True
        return not self.ready()

    def on_done(self, callback):
        with self.changed:
            if self.missing:
                self.callbacks.append(callback)
                return
        callback()


class _Streamed:
    """Answers as they come, of tasks that are handed in as they are asked for."""

    def __init__(self, threads, function, star, items, size, ordered, most):
        self.threads, self.function, self.star = threads, function, star
        self.items, self.size, self.ordered = items, size, ordered
        self.window = most or 2 * len(threads.threads)
        self.waiting = []
        self.failure = None

    def fill(self):
        while self.items is not None and len(self.waiting) < self.window:
            try:
                chunk = list(itertools.islice(self.items, self.size))
            except BaseException as error:
                self.items, self.failure = None, error
                return
            if not chunk:
                self.items = None
                return
            self.waiting.append(self.threads.map(self.function, chunk, self.star, len(chunk), None))

    def hand_in_all(self):
        self.window = float("inf")
        self.fill()

    def next(self, timeout=None):
        result = self.take(timeout, _LATE, _END)
        if result is _LATE:
            raise TimeoutError
        if result is _END:
            raise StopIteration
        return result

    def take(self, timeout, late, end):
        self.fill()
        if not self.waiting:
            if self.failure is not None:
                error, self.failure = self.failure, None
                raise error
            return end
        ready = None if self.ordered else next((task for task in self.waiting if task.ready()), None)
        task = ready or self.waiting[0]
        if not task.wait(timeout):
            return late
        self.waiting.remove(task)
        answer = task.get()[0]
        return answer if self.size == 1 or isinstance(answer, list) else [answer]

    def on_ready(self, callback):
        self.fill()
        called = threading.Lock()

        def call():
            if called.acquire(blocking=False):
                callback()

        for task in self.waiting[:1] if self.ordered else list(self.waiting):
            task.on_done(call)
        if not self.waiting:
            call()

    def cancel(self):
        self.items = None
        for task in self.waiting:
            task.cancel()
