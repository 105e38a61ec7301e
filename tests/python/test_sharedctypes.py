"""Values and arrays in shared memory."""

import ctypes
import gc
import os
import signal
import threading

import pytest
from conftest import PATIENCE

from broody import heap, sharedctypes
from broody.exceptions import OwnerDiedWarning


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int), ("y", ctypes.c_double)]


def add(value, array, point, count):
    for _ in range(count):
        with value.get_lock():
            value.value += 1
        with array:
            array[1] += 2
    point.y += 0.5


def test_processes_change_what_they_share(ctx):
    value, array, point = ctx.Value("i", 5), ctx.Array("q", 3), ctx.Value(Point, 1, 2.0)
    processes = [ctx.Process(target=add, args=(value, array, point, 1000)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    assert value.value == 3005
    assert array[:] == [0, 6000, 0]
    assert (point.x, len(array)) == (1, 3)


def test_threads_change_what_they_share_under_the_lock(ctx):
    value, array, point = ctx.Value("i", 0), ctx.Array("q", 3), ctx.Value(Point)
    threads = [threading.Thread(target=add, args=(value, array, point, 1000)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value.value == 3000


def die_with(value):
    value.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_value_whose_user_is_killed_can_be_used(ctx):
    value = ctx.Value("d", 1.5)
    process = ctx.Process(target=die_with, args=(value,))
    process.start()
    process.join(PATIENCE)
    with pytest.warns(OwnerDiedWarning):
        assert value.value == 1.5


@pytest.mark.parametrize("lock", ["Lock", "RLock", "Semaphore"])
def test_a_lock_of_ones_own_is_used(ctx, lock):
    lock = getattr(ctx, lock)()
    first, second = ctx.Value("i", 1, lock=lock), ctx.Array("c", b"abc", lock=lock)
    assert first.get_lock() is second.get_lock() is lock
    first.value = 7
    second.value = b"xy"
    assert (first.value, second.value, second.raw) == (7, b"xy", b"xy\0")


def test_what_an_operation_raises_leaves_the_lock_free(ctx):
    value, array = ctx.Value("i"), ctx.Array("i", 2)
    with pytest.raises(TypeError):
        value.value = "text"
    with pytest.raises(IndexError):
        array[2]
    assert value.acquire(False) and array.acquire(False)
    value.release()
    with pytest.raises(AssertionError):
        value.release()


def test_a_copy_is_shared_memory_of_its_own():
    one = sharedctypes.RawValue(Point, 1, 2.0)
    other = sharedctypes.copy(one)
    other.x = 9
    assert (one.x, other.x, other.y) == (1, 9, 2.0)


def test_memory_is_zero_and_goes_with_its_last_user():
    blocks = heap.BufferWrapper._heap
    gc.collect()
    before = len(blocks._arenas)
    for size in (0, 1, 7, 4096, 5_000_000):
        wrapper = heap.BufferWrapper(size)
        view = wrapper.create_memoryview()
        assert len(view) == size and bytes(view) == bytes(size)
        view[:] = b"x" * size
    del wrapper, view
    gc.collect()
    assert len(blocks._arenas) == before
    with pytest.raises(ValueError):
        heap.BufferWrapper(-1)
    with pytest.raises(OverflowError):
        heap.BufferWrapper(2**63 - 1)


def write(array):
    array[-1] = 250


def test_large_arrays_are_shared(ctx):
    array = ctx.RawArray("B", 20_000_000)
    process = ctx.Process(target=write, args=(array,))
    process.start()
    process.join(PATIENCE)
    assert array[-1] == 250 and array[0] == 0
