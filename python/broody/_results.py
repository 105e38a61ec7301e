"""What pools give for tasks: one result, several, or one after the other.

Behaviour of what the standard module has, too: https://docs.python.org/3/library/multiprocessing.html#multiprocessing.pool.AsyncResult
"""

import itertools
import threading
import traceback

from . import TimeoutError

__all__ = []


class AsyncResult:
    """The result of a task that was handed in."""

    def __init__(self, pending, callback=None, error_callback=None, pool=None):
        # Whoever waits for a result keeps the pool, which would be terminated if it were forgotten.
        self._kept = pool
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
            self._kept = None

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

    def __init__(self, pending, chunksize, callback=None, error_callback=None, pool=None):
        self._chunksize = chunksize
        super().__init__(pending, callback, error_callback, pool)

    def _value(self, answers):
        if self._chunksize == 1:
            return answers
        return list(itertools.chain.from_iterable(answers))


class IMapIterator:
    """Results as they come."""

    def __init__(self, stream, chunksize=1, pool=None):
        self._kept = pool
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
