"""What a type checker has to make of the package: checked by mypy, never run."""

from typing import assert_type

import broody
from broody import connection
from broody.pool import AsyncResult, Pool
from broody.shared_memory import ShareableList, SharedMemory


def square(x: int) -> float:
    return x * x


def main() -> None:
    with broody.Pool(2, timeout=10, retries=1, policy="mlfq") as pool:
        assert_type(pool, Pool)
        assert_type(pool.map(square, [1, 2, 3]), list[float])
        assert_type(pool.apply_async(square, (1,), timeout=1), AsyncResult[float])
        assert_type(next(pool.imap(square, range(3))), float)
    child = broody.Process(target=square, args=(1,), daemon=True)
    child.start()
    assert_type(child.exitcode, int | None)
    ctx = broody.get_context("spawn")
    other = ctx.Process(target=square, args=(1,), orphan="keep")
    assert_type(other.pid, int | None)
    ours, theirs = broody.Pipe()
    assert_type(ours.recv_bytes(10), bytes)
    assert_type(connection.wait([ours, theirs], 1), list[connection.Connection])
    with connection.Listener(("localhost", 0), authkey=b"key") as listener, listener.accept() as conn:
        conn.send_bytes(bytearray(10), 1, size=2)
    memory = SharedMemory(create=True, size=10, track=False)
    assert_type(memory.buf, memoryview)
    assert_type(ShareableList(["a"])[0], str)
