"""The engine of `ThreadPool`: what a pool asks of workers, by threads of this process."""

import itertools
import os
import queue
import threading

__all__ = []


class Threads:
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


_LATE, _END = object(), object()
