"""Pools and executors in an event loop."""

import asyncio
import threading
import time

import broody
import pytest
from broody.exceptions import WorkerLostError
from broody.futures import ProcessPoolExecutor
from broody.pool import ThreadPool
from conftest import PATIENCE, eventually
from test_futures import die, fail, slow_square, square


@pytest.fixture
def pool(ctx):
    with ctx.Pool(2) as pool:
        yield pool
    pool.join()


@pytest.fixture
def executor(ctx):
    with ProcessPoolExecutor(2, ctx) as executor:
        yield executor


def run(awaitable):
    return asyncio.run(asyncio.wait_for(awaitable, PATIENCE))


def pids(pool):
    return {worker.pid for worker in pool._pool}


async def until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


def test_results_can_be_awaited(pool):
    threads = threading.active_count()

    async def main():
        assert await pool.apply_async(square, (3,)) == 9
        assert await pool.map_async(square, range(100)) == [x * x for x in range(100)]
        assert await pool.starmap_async(pow, [(2, 3), (3, 2)], 1) == [8, 9]
        assert await asyncio.gather(*(pool.apply_async(square, (x,)) for x in range(50))) == [x * x for x in range(50)]
        with pytest.raises(KeyError):
            await pool.apply_async(fail, ("x",))
        with pytest.raises(WorkerLostError):
            await pool.apply_async(die)
        # Again, when it is there.
        result = pool.apply_async(square, (4,))
        assert (await result, await result, result.get()) == (16, 16, 16)
        assert threading.active_count() == threads

    run(main())


def test_the_loop_goes_on_while_a_task_runs(pool):
    async def main():
        ticks = 0
        slow = asyncio.ensure_future(pool.apply_async(time.sleep, (0.3,)))
        while not slow.done():
            await asyncio.sleep(0.01)
            ticks += 1
        assert ticks > 3

    run(main())


def test_iterators_can_be_iterated_over(pool):
    async def main():
        for size in (1, 7):
            assert [r async for r in pool.imap(square, range(300), size)] == [x * x for x in range(300)]
            assert sorted([r async for r in pool.imap_unordered(slow_square, range(300), size)]) == [x * x for x in range(300)]
        assert [r async for r in pool.imap(square, [])] == []
        with pytest.raises(KeyError):
            async for _ in pool.imap(fail, [1]):
                pass

        def broken():
            yield 1
            raise OSError("no more")

        given = []
        with pytest.raises(OSError, match="no more"):
            async for result in pool.imap(square, broken()):
                given.append(result)
        assert given == [1]
        # One that is not taken to its end.
        async for _ in pool.imap_unordered(slow_square, range(100_000)):
            break
        assert await pool.apply_async(square, (5,)) == 25

    run(main())


def begin_and_sleep(path):
    with open(path, "a"):
        pass
    time.sleep(PATIENCE)


def test_who_is_cancelled_while_he_waits_ends_the_task(pool, tmp_path):
    async def wait_for_all(path):
        async for _ in pool.imap_unordered(begin_and_sleep, [path] * 20):
            pass

    async def main():
        ways = (
            lambda path: asyncio.ensure_future(pool.apply_async(begin_and_sleep, (path,))),
            lambda path: asyncio.create_task(wait_for_all(path)),
        )
        for number, waiting in enumerate(ways):
            path = tmp_path / str(number)
            before, task = pids(pool), waiting(path)
            # It waits from its first step on, and the worker has begun.
            await asyncio.sleep(0)
            await until(path.exists)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: not before <= pids(pool))
            assert await pool.apply_async(square, (2,)) == 4
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.apply_async(time.sleep, (PATIENCE,)), 0.1)
        # What is shielded goes on.
        shielded = pool.apply_async(slow_square, (6,))
        task = asyncio.ensure_future(asyncio.shield(shielded))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await shielded == 36

    run(main())


def test_executors_in_a_loop(executor, tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(executor, square, 3) == 9
        many = [loop.run_in_executor(executor, square, x) for x in range(100)]
        assert await asyncio.gather(*many) == [x * x for x in range(100)]
        assert await executor.submit(square, 4) == 16
        assert await asyncio.wrap_future(executor.submit(square, 5)) == 25
        with pytest.raises(KeyError):
            await executor.submit(fail, 1)
        # The future of a call that runs cannot be cancelled, as the standard says; who awaits it by itself ends it.
        future = executor.submit(time.sleep, PATIENCE)
        await until(future.running)
        task = asyncio.ensure_future(future)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(future.done)
        assert future.cancelled()
        begun = tmp_path / "begun"
        ending = loop.run_in_executor(executor.options(cancel_running=True), begin_and_sleep, str(begun))
        await until(begun.exists)
        lost = executor.stats()["lost"]
        ending.cancel()
        await until(lambda: executor.stats()["lost"] > lost)
        assert await executor.submit(square, 6) == 36

    run(main())


def test_a_loop_that_is_gone_is_not_asked_for(pool):
    shielded = pool.apply_async(time.sleep, (0.3,))

    async def wait_for_it():
        return await asyncio.shield(shielded)

    async def main():
        asyncio.create_task(wait_for_it())
        await asyncio.sleep(0.01)

    # The loop is closed before the result is there.
    asyncio.run(main())
    eventually(lambda: not pool.stats()["leased"])
    assert pool.apply(square, (3,)) == 9


def test_pools_of_threads_too():
    async def main():
        with ThreadPool(2) as pool:
            assert await pool.apply_async(square, (3,)) == 9
            for size in (1, 3):
                assert [r async for r in pool.imap(square, range(50), size)] == [x * x for x in range(50)]
                assert sorted([r async for r in pool.imap_unordered(slow_square, range(50), size)]) == [x * x for x in range(50)]

    run(main())


def test_a_pool_that_ends_tells_those_who_wait():
    async def main():
        with broody.Pool(1) as pool:
            waiting = asyncio.ensure_future(pool.apply_async(time.sleep, (PATIENCE,)))
            taking = asyncio.ensure_future(anext(pool.imap(time.sleep, [PATIENCE])))
            await asyncio.sleep(0.1)
        for task in (waiting, taking):
            with pytest.raises(broody.ProcessError, match="terminated"):
                await task

    run(main())
