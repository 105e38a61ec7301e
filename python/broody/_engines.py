"""Engines of worker processes, as `Pool` and `ProcessPoolExecutor` both ask for them.

What may be said of them, how they begin and end, and what is seen of them.
"""

import itertools
import os
import signal
import sys
import weakref

from . import _broody, _runtime, process, util

__all__ = []


# What may be said


def cpus():
    """How many processes may run at once."""
    count = getattr(os, "process_cpu_count", None)
    return (count() if count else len(os.sched_getaffinity(0))) or 1


def terms(
    timeout=None,
    soft_timeout=None,
    retries=None,
    retry_errors=None,
    backoff=None,
    memory_limit=None,
    cost=None,
    priority=None,
):
    """What is said of tasks, by name; None if it is nothing."""
    said = {name: value for name, value in locals().items() if value is not None}
    return said or None


def settings(
    tasks_per_worker,
    *,
    maxmemoryperchild=None,
    policy=None,
    idle_timeout=None,
    start_timeout=None,
    name=None,
    nice=None,
    pin_cpus=None,
    forward_logs=False,
    **limits,
):
    """What is said of an engine, for `make`; `limits` is said of each task."""
    return {
        "name": name,
        "tasks": terms(**limits),
        "tasks_per_worker": tasks_per_worker,
        "memory_per_worker": maxmemoryperchild,
        "idle_timeout": idle_timeout,
        "start_timeout": start_timeout,
        "nice": nice,
        "pin_cpus": pin_cpus,
        "policy": policy,
        "forward_logs": forward_logs,
    }


def check(initializer):
    """That it is one."""
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")


# How they begin and end

# In the host: what workers that are forks of it find here. By the engine's number.
_forked_with = {}
_numbers = itertools.count(1)


def make(ctx, workers, initializer, initargs, settings):
    """The engine, which has started its workers: at least and at most so many."""
    settings = dict(settings)
    forwards_logs = settings.pop("forward_logs")
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
    if forwards_logs:
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


def after_end(engine):
    """When the workers have ended: what they have logged is told."""
    if (logs := _forwardings.pop(engine, None)) is not None:
        logs.end()


def end(engine):
    """Ends the workers at once."""
    engine.terminate()
    engine.join()
    after_end(engine)


def _look_at_main():
    """What is defined in a main module that is no file goes to workers by value."""
    main = sys.modules.get("__main__")
    if getattr(main, "__file__", None) is None:
        from . import _by_value

        _by_value.look_at_main()


# What is seen of them


class Worker:
    """A worker process, as far as `Pool._pool` shows it."""

    def __init__(self, engine, pid):
        self._engine = engine
        self.pid = self.ident = pid
        self.daemon = True

    def is_alive(self):
        return self.pid in self._engine.worker_pids()

    def terminate(self):
        self._engine.signal_worker(self.pid, signal.SIGTERM)

    def kill(self):
        self._engine.signal_worker(self.pid, signal.SIGKILL)

    def join(self, timeout=None):
        """Waits until it has ended, at most for `timeout` seconds."""
        from .connection import wait

        try:
            sentinel = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # Looked at afterwards: it was not somebody else's before either.
            if self.is_alive():
                wait([sentinel], timeout)
        finally:
            os.close(sentinel)

    @property
    def exitcode(self):
        return None if self.is_alive() else 0

    def __repr__(self):
        return f"<worker pid={self.pid}>"


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
