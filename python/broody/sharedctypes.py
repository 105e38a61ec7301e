"""ctypes objects in shared memory, with a lock or without.

Behaviour: https://docs.python.org/3/library/multiprocessing.html#module-multiprocessing.sharedctypes
"""

import ctypes
import weakref

from . import _broody, context, heap
from .reduction import ForkingPickler

__all__ = ["RawValue", "RawArray", "Value", "Array", "copy", "synchronized"]

# The codes of the module array, and those of ctypes' characters.
typecode_to_type = {
    "c": ctypes.c_char, "u": ctypes.c_wchar,
    "b": ctypes.c_byte, "B": ctypes.c_ubyte,
    "h": ctypes.c_short, "H": ctypes.c_ushort,
    "i": ctypes.c_int, "I": ctypes.c_uint,
    "l": ctypes.c_long, "L": ctypes.c_ulong,
    "q": ctypes.c_longlong, "Q": ctypes.c_ulonglong,
    "f": ctypes.c_float, "d": ctypes.c_double,
}  # fmt: skip


def _type_of(typecode_or_type):
    return typecode_to_type.get(typecode_or_type, typecode_or_type)


def _place(kind, wrapper):
    """An object of the ctypes type `kind` in the memory of `wrapper`."""
    # From now on pickle knows how to send this type.
    if kind not in ForkingPickler._extra_reducers:
        ForkingPickler.register(kind, _reduce)
    made = kind.from_buffer(wrapper.create_memoryview())
    made._wrapper = wrapper
    return made


def _new(kind):
    return _place(kind, heap.BufferWrapper(ctypes.sizeof(kind)))


def RawValue(typecode_or_type, *args):
    """A ctypes object in shared memory, made of `args`. Nothing keeps two processes from changing it at once."""
    value = _new(_type_of(typecode_or_type))
    value.__init__(*args)
    return value


def RawArray(typecode_or_type, size_or_initializer):
    """A ctypes array in shared memory: of a number of zeros, or of given items."""
    kind = _type_of(typecode_or_type)
    if isinstance(size_or_initializer, int):
        return _new(kind * size_or_initializer)
    array = _new(kind * len(size_or_initializer))
    array.__init__(*size_or_initializer)
    return array


def _lock_for(lock, ctx):
    if lock is True or lock is None:
        return (ctx or context._default_context).RLock()
    if not hasattr(lock, "acquire"):
        raise AttributeError(f"{lock!r} has no method 'acquire'")
    return lock


def Value(typecode_or_type, *args, lock=True, ctx=None):
    """A ctypes object in shared memory and, unless `lock` is False, the lock that it is used under: a new one, or the one that is given."""
    value = RawValue(typecode_or_type, *args)
    return value if lock is False else synchronized(value, _lock_for(lock, ctx), ctx=ctx)


def Array(typecode_or_type, size_or_initializer, *, lock=True, ctx=None):
    """As `RawArray`, with a lock as for `Value`."""
    array = RawArray(typecode_or_type, size_or_initializer)
    return array if lock is False else synchronized(array, _lock_for(lock, ctx), ctx=ctx)


def copy(obj):
    """A new object in shared memory with the contents of `obj`."""
    new = _new(type(obj))
    ctypes.pointer(new)[0] = obj
    return new


def synchronized(obj, lock=None, ctx=None):
    """`obj` and a lock that it is used under."""
    if isinstance(obj, SynchronizedBase):
        raise AssertionError("object already synchronized")
    if isinstance(obj, ctypes._SimpleCData):
        return Synchronized(obj, lock, ctx)
    if isinstance(obj, ctypes.Array):
        return (SynchronizedString if obj._type_ is ctypes.c_char else SynchronizedArray)(obj, lock, ctx)
    kind = type(obj)
    ours = _structures.get(kind)
    if ours is None:
        fields = {name: make_property(name) for name, *_ in kind._fields_}
        ours = _structures[kind] = type("Synchronized" + kind.__name__, (SynchronizedBase,), fields)
    return ours(obj, lock, ctx)


# The classes of synchronized structures.
_structures = weakref.WeakKeyDictionary()


def make_property(name):
    """An attribute of the object behind a synchronized one, under its lock."""
    return _broody.GuardedField(name)


# On their way to another process


def _reduce(obj):
    context.assert_spawning(obj)
    if isinstance(obj, ctypes.Array):
        return rebuild_ctype, (obj._type_, obj._wrapper, obj._length_)
    return rebuild_ctype, (type(obj), obj._wrapper, None)


def rebuild_ctype(kind, wrapper, length):
    """The object in the memory of `wrapper`; of `length` items, if it is an array."""
    return _place(kind if length is None else kind * length, wrapper)


class SynchronizedBase(_broody.Guarded):
    """An object in shared memory, and the lock that it is used under."""

    def __init__(self, obj, lock=None, ctx=None):
        lock = lock if lock is not None else (ctx or context._default_context).RLock()
        self._make(obj, lock)
        self.acquire = lock.acquire
        self.release = lock.release

    _obj = property(lambda self: self.get_obj())
    _lock = property(lambda self: self.get_lock())

    def __reduce__(self):
        context.assert_spawning(self)
        return synchronized, (self.get_obj(), self.get_lock())

    def __repr__(self):
        return f"<{type(self).__name__} wrapper for {self.get_obj()}>"


class Synchronized(SynchronizedBase):
    """A number or character."""

    value = make_property("value")


class SynchronizedArray(SynchronizedBase):
    """An array."""

    __len__ = _broody.Guarded._length
    __getitem__ = _broody.Guarded._get_item
    __setitem__ = _broody.Guarded._set_item

    def __getslice__(self, start, stop):
        return self[start:stop]

    def __setslice__(self, start, stop, values):
        self[start:stop] = values


class SynchronizedString(SynchronizedArray):
    """An array of characters."""

    value = make_property("value")
    raw = make_property("raw")
