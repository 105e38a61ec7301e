"""Pools whose class says how objects are pickled on their way to the workers and back.

joblib's are such (its backend "multiprocessing"): `_forward_reducers` and `_backward_reducers`, {type: function}, a function giving what `__reduce__` would. They
keep an array in shared memory where it is, for workers to write into it. joblib puts them into queues of its own, for a pool to use; broody's pool has no queues, and
uses the reducers.
"""

import copyreg
import io
import pickle

from .reduction import ForkingPickler

__all__ = []

# In a worker: the reducers for what its tasks give.
_backward = None


class Tasks:
    """Hands tasks to the engine of such a pool: what goes to the workers goes by the reducers."""

    def __init__(self, engine, reducers):
        self._engine = engine
        self._reducers = reducers

    def apply(self, func, args, kwds, terms):
        return self._engine.apply(_call, (_Sent((func, args, kwds), self._reducers),), {}, terms)

    def map(self, func, iterable, star, *more):
        return self._engine.map(_Each(func, star), self._sent(iterable), False, *more)

    def imap(self, func, iterable, star, *more):
        return self._engine.imap(_Each(func, star), self._sent(iterable), False, *more)

    def _sent(self, iterable):
        items = (_Sent(item, self._reducers) for item in iterable)
        return list(items) if hasattr(iterable, "__len__") else items


class Begin:
    """The initializer of the workers of such a pool."""

    def __init__(self, reducers, initializer):
        self.reducers, self.initializer = reducers, initializer

    def __call__(self, *initargs):
        global _backward
        _backward = self.reducers
        if self.initializer is not None:
            self.initializer(*initargs)


class _Sent:
    """An object that is pickled by reducers. What is unpickled is the object itself."""

    def __init__(self, value, reducers):
        self.value, self.reducers = value, reducers

    def __reduce__(self):
        buffer = io.BytesIO()
        pickler = pickle.Pickler(buffer, pickle.HIGHEST_PROTOCOL)
        pickler.dispatch_table = {**copyreg.dispatch_table, **ForkingPickler._extra_reducers, **self.reducers}
        pickler.dump(self.value)
        return pickle.loads, (buffer.getvalue(),)


class _Each:
    """The function of a map."""

    def __init__(self, func, star):
        self.func, self.star = func, star

    def __call__(self, item):
        return _given(self.func(*item) if self.star else self.func(item))


def _call(call):
    func, args, kwds = call
    return _given(func(*args, **kwds))


def _given(result):
    return _Sent(result, _backward) if _backward else result
