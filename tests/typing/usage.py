"""What a type checker has to make of the package: checked by mypy, never run."""

import ctypes
from typing import assert_type

import broody
from broody import connection, futures
from broody.exceptions import TaskTimeoutError, WorkerLostError
from broody.pool import AsyncResult, Pool
from broody.queues import Queue
from broody.sharedctypes import Value
from broody.synchronize import Barrier, Condition, Lock
from broody.shared_memory import ShareableList, SharedMemory


def square(x: int) -> float:
    return x * x


def main() -> None:
    with broody.Pool(2, timeout=10, retries=1, retry_errors=True, policy="mlfq") as pool:
        assert_type(pool, Pool)
        assert_type(pool.map(square, [1, 2, 3]), list[float])
        assert_type(pool.apply_async(square, (1,), timeout=1), AsyncResult[float])
        assert_type(next(pool.imap(square, range(3))), float)
        assert_type(pool.map(square, [1], progress="squares"), list[float])
        with pool.trace("run.json") as trace:
            trace.write()
    with futures.ProcessPoolExecutor(2, broody.get_context("spawn"), retries=1, forward_logs=True) as executor:
        future = executor.submit(square, 1)
        assert_type(future, futures.Future[float])
        assert_type(future.result(), float)
        assert_type(executor.options(timeout=1).submit(square, x=2).terminate(), bool)
        assert_type(list(executor.map(square, [1, 2], buffersize=5)), list[float])
    try:
        executor.submit(square, 1).result()
    except WorkerLostError as lost:
        assert_type((lost.pid, lost.task, lost.exitcode), tuple[int, int, int | None])
    except TaskTimeoutError as late:
        assert_type(late.limit, float)
    child = broody.Process(target=square, args=(1,), daemon=True)
    child.start()
    assert_type(child.exitcode, int | None)
    ctx = broody.get_context("spawn")
    other = ctx.Process(target=square, args=(1,), orphan="keep")
    assert_type(other.pid, int | None)
    numbers: Queue[int] = Queue(5)
    numbers.put(1, timeout=0.5)
    assert_type(numbers.get(), int)
    with ctx.Lock(strict=True) as locked:
        assert_type(locked, bool)
    condition = Condition(Lock())
    assert_type(condition.wait_for(lambda: True, 1), bool)
    count = Value(ctypes.c_int, 5)
    with count:
        count.value += 1
    assert_type(Barrier(2).wait(1.5), int)
    ours, theirs = broody.Pipe()
    assert_type(ours.recv_bytes(10), bytes)
    assert_type(connection.wait([ours, theirs], 1), list[connection.Connection])
    with connection.Listener(("localhost", 0), authkey=b"key") as listener, listener.accept() as conn:
        conn.send_bytes(bytearray(10), 1, size=2)
    memory = SharedMemory(create=True, size=10, track=False)
    assert_type(memory.buf, memoryview)
    assert_type(ShareableList(["a"])[0], str)


async def in_a_loop(pool: Pool, executor: futures.ProcessPoolExecutor) -> None:
    assert_type(await pool.apply_async(square, (1,)), float)
    assert_type(await pool.map_async(square, [1]), list[float])
    assert_type([result async for result in pool.imap_unordered(square, [1])], list[float])
    assert_type(await executor.submit(square, 1), float)
