"""Memory that processes share, in pieces.

The engine gives out the pieces: each is a block of its own, zeroed, that goes with its last user in any process. The heap counts those of this process.

Behaviour: `BufferWrapper` as those who build on the standard module's know it.
"""

import itertools
import sys
import threading
import weakref

from . import _broody, context

__all__ = ["BufferWrapper"]


class Arena:
    """A block of shared memory of `size` bytes."""

    def __init__(self, size):
        self.size = size
        self._memory = _broody.Memory(size)
        self.buffer = memoryview(self._memory)

    def __getstate__(self):
        context.assert_spawning(self)
        return self.size, self._memory._encode()

    def __setstate__(self, state):
        self.size, encoded = state
        self._memory = _broody.Memory()
        self._memory._decode(encoded)
        self.buffer = memoryview(self._memory)


class Heap:
    """The blocks of this process that are in use."""

    # There is no free space in blocks; these are for those who look for it.
    _DISCARD_FREE_SPACE_LARGER_THAN = 0
    _alignment = 8

    def __init__(self, size=0):
        self._lock = threading.Lock()
        self._allocated_blocks = {}
        self._len_to_seq = {}
        self._pending_free_blocks = []
        self._mallocs = itertools.count()
        self._frees = itertools.count()

    # Each block is an arena of its own.
    _arenas = property(lambda self: list(self._allocated_blocks))

    # Each counter's next number is how often it was counted.
    _n_mallocs = property(lambda self: self._mallocs.__reduce__()[1][0])
    _n_frees = property(lambda self: self._frees.__reduce__()[1][0])

    def malloc(self, size):
        """A block of at least `size` bytes: its arena, where it begins there, and where it ends."""
        if size < 0:
            raise ValueError(f"Size {size:n} out of range")
        if size >= sys.maxsize:
            raise OverflowError(f"Size {size:n} too large")
        size = max(-(-size // self._alignment) * self._alignment, self._alignment)
        arena = Arena(size)
        next(self._mallocs)
        self._allocated_blocks[arena] = {(0, size)}
        return arena, 0, size

    def free(self, block):
        """The block is not in use any more. Each step is one operation of the interpreter's: this may be called in the middle of another one, by the
        garbage collector."""
        self._allocated_blocks.pop(block[0])
        next(self._frees)


class BufferWrapper:
    """A block of `size` bytes, as long as this lives in some process."""

    _heap = Heap()

    def __init__(self, size):
        block = self._heap.malloc(size)
        self._state = block, size
        weakref.finalize(self, self._heap.free, block).atexit = False

    def __getstate__(self):
        return self._state

    def __setstate__(self, state):
        self._state = state

    def create_memoryview(self):
        """The bytes."""
        (arena, start, _), size = self._state
        return memoryview(arena.buffer)[start : start + size]
