"""Pools: what becomes of tasks, and of the pool, when something goes wrong."""

import gc
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings

import broody
import pytest
from broody.exceptions import (
    PoolBrokenError,
    TaskCancelledError,
    TaskExitError,
    TaskMemoryError,
    TaskTimeoutError,
    WorkerLostError,
)
from broody.pool import MaybeEncodingError, RemoteTraceback, ThreadPool
from conftest import PATIENCE, Program, descendants, dies_unaided, eventually, is_over


def square(x):
    return x * x


def slow_square(x):
    time.sleep(0.001)
    return x * x


def die(number=signal.SIGKILL):
    os.kill(os.getpid(), number)
    time.sleep(PATIENCE)


def die_once(path):
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "done"
    die()


def leave(code):
    sys.exit(code)


def fail(x):
    raise KeyError(x)


class Unfit(Exception):
    """Pickles, and does not unpickle."""

    def __init__(self, one, other):
        super().__init__("only one")


def raise_unfit():
    raise Unfit(1, 2)


class Base(BaseException):
    pass


def raise_base():
    raise Base("not an Exception")


def raise_interrupt():
    raise KeyboardInterrupt


def unpicklable():
    return lambda: 1


def grow(size):
    block = bytearray(size)
    time.sleep(PATIENCE)
    return block


def bad_start():
    raise RuntimeError("no such model")


def deadly_start():
    os._exit(3)


class Weak(Exception):
    pass


def raise_weak(_=None):
    raise Weak


def seat():
    return os.environ["SEAT"]


def nested(method):
    with broody.get_context(method).Pool(2) as pool:
        return pool.map(square, range(4))


@pytest.fixture
def pool(ctx):
    with ctx.Pool(2) as pool:
        yield pool
    pool.join()


def test_a_worker_that_is_killed_fails_its_task_only(pool):
    """P3, R1."""
    others = pool.map_async(square, range(1000), 1)
    lost = pool.apply_async(die)
    with pytest.raises(WorkerLostError, match="SIGKILL") as told:
        lost.get(PATIENCE)
    assert told.value.exitcode == -signal.SIGKILL and told.value.pid and told.value.task is not None
    assert others.get(PATIENCE) == [x * x for x in range(1000)]
    assert pool.apply(square, (5,)) == 25


def test_a_lost_task_may_be_tried_again(pool, tmp_path):
    assert pool.apply_async(die_once, (str(tmp_path / "first"),), retries=2).get(PATIENCE) == "done"
    assert pool.stats()["retried"] == 1


def fail_twice(path, more="", kind=ValueError):
    """Raises the first two times."""
    with open(path, "a+") as file:
        file.write("x")
        file.seek(0)
        count = len(file.read())
    if count <= 2:
        raise kind(f"number {count}{more}")
    return count


def test_a_task_that_raises_may_be_tried_again(pool, tmp_path):
    again = {"retries": 2, "retry_errors": True, "backoff": 0.001}
    assert pool.apply_async(fail_twice, (tmp_path / "a",), **again).get(PATIENCE) == 3
    assert pool.map(fail_twice, [tmp_path / "b"], **again) == [3]
    assert pool.map(fail_twice, [tmp_path / "c"] * 3, 3, retries=2, retry_errors=True) == [3, 4, 5]
    assert list(pool.imap(fail_twice, [tmp_path / "d"], **again)) == [3]
    assert pool.stats()["retried"] == 8
    with pytest.raises(ValueError, match="number 2") as told:
        pool.apply_async(fail_twice, (tmp_path / "e",), retries=1, retry_errors=True).get(PATIENCE)
    assert "in fail_twice" in str(told.value.__cause__)


def test_what_is_not_tried_again(pool, tmp_path):
    cases = [
        ("retries are for deaths", ValueError, {"retries": 2}, ""),
        ("no retries", ValueError, {"retry_errors": True}, ""),
        ("too long", ValueError, {"retries": 2, "retry_errors": True}, "x" * 100_000),
        ("the end of its process", SystemExit, {"retries": 2, "retry_errors": True}, ""),
    ]
    for name, kind, terms, more in cases:
        with pytest.raises(TaskExitError if kind is SystemExit else kind, match="number 1") as told:
            pool.apply_async(fail_twice, (tmp_path / name, more, kind), **terms).get(PATIENCE)
        assert (tmp_path / name).read_text() == "x", name
        assert more in str(told.value)
    assert pool.stats()["retried"] == 0


def test_a_pool_may_try_again_what_raises(ctx, tmp_path):
    with ctx.Pool(1, retries=2, retry_errors=True) as pool:
        assert pool.apply(fail_twice, (tmp_path / "a",)) == 3
        with pytest.raises(ValueError, match="number 1"):
            pool.apply_async(fail_twice, (tmp_path / "b",), retry_errors=False).get(PATIENCE)
    pool.join()


def test_what_a_task_raises_comes_with_its_traceback(pool):
    with pytest.raises(KeyError) as told:
        pool.apply(fail, ("x",))
    assert isinstance(told.value.__cause__, RemoteTraceback)
    assert "raise KeyError(x)" in str(told.value.__cause__)


def test_what_a_task_raises_does_not_keep_itself(pool):
    assert dies_unaided(lambda: pool.apply(raise_weak), Weak)
    assert dies_unaided(lambda: pool.apply_async(raise_weak).get(PATIENCE), Weak)
    assert dies_unaided(lambda: pool.map(raise_weak, range(100)), Weak)
    assert dies_unaided(lambda: list(pool.imap(raise_weak, range(2))), Weak)


def test_an_exception_that_does_not_unpickle_is_told(pool):
    """R3."""
    with pytest.raises(MaybeEncodingError, match="only one"):
        pool.apply_async(raise_unfit).get(PATIENCE)
    assert pool.apply(square, (2,)) == 4


def test_base_exceptions_do_not_hang_and_do_not_end_the_caller(pool):
    """R4."""
    with pytest.raises(Base):
        pool.apply_async(raise_base).get(PATIENCE)
    with pytest.raises(TaskExitError) as told:
        pool.apply_async(leave, (3,)).get(PATIENCE)
    assert told.value.code == 3
    with pytest.raises(TaskExitError, match="KeyboardInterrupt"):
        pool.apply_async(raise_interrupt).get(PATIENCE)
    with pytest.raises(WorkerLostError):
        pool.apply_async(os._exit, (0,)).get(PATIENCE)
    assert pool.map(square, range(3)) == [0, 1, 4]


def test_results_and_arguments_that_do_not_pickle(pool):
    with pytest.raises(MaybeEncodingError):
        pool.apply_async(unpicklable).get(PATIENCE)
    # Neither by name nor by value.
    with pytest.raises(TypeError, match="pickle"):
        pool.apply(square, (threading.Lock(),))
    with pytest.raises(TypeError, match="pickle"):
        list(pool.imap(square, [1, threading.Lock()]))
    assert pool.apply(square, (2,)) == 4


def test_an_initializer_that_fails_is_an_error(ctx):
    """R5."""
    for start, reason in ((bad_start, "no such model"), (deadly_start, "3")):
        with ctx.Pool(2, initializer=start) as pool:
            with pytest.raises(PoolBrokenError, match=reason):
                pool.apply_async(square, (1,)).get(PATIENCE)


def test_imap_takes_only_what_it_needs(pool):
    """R6."""
    taken = itertools.count()

    def endless():
        while True:
            yield next(taken)

    results = pool.imap(time.sleep, (x * 0 + 0.001 for x in endless()))
    for _ in range(100):
        next(results)
    time.sleep(0.3)
    assert next(taken) < 2000
    del results
    # A pool of which an iterator was forgotten goes on.
    assert pool.apply(square, (3,)) == 9


def test_a_buffer_bounds_what_imap_takes(pool):
    taken = itertools.count()
    for iterate in (pool.imap, pool.imap_unordered):
        results = iterate(square, (next(taken) for _ in itertools.count()), buffersize=3)
        before = next(taken)
        for number in range(1, 20):
            next(results)
            assert next(taken) - before <= 2 * number + 3
        del results
    with pytest.raises(ValueError):
        pool.imap(square, [], buffersize=0)


def test_a_pool_may_be_joined_while_an_iterator_is_not_at_its_end(ctx):
    with ctx.Pool(2) as pool:
        ended, begun = pool.imap(square, []), pool.imap_unordered(square, range(500), 3)
        assert list(ended) == []
        first = next(begun)
        pool.close()
        pool.join()
        assert sorted([first, *begun]) == [x * x for x in range(500)]
        # A thread pool is no different.
    with ThreadPool(2) as pool:
        begun = pool.imap(square, range(50))
        next(begun)
        pool.close()
        pool.join()
        assert list(begun) == [x * x for x in range(1, 50)]


def test_exceptions_are_picklable():
    import pickle

    from broody import exceptions

    lost = WorkerLostError._of(3, 4711, -9)
    again = pickle.loads(pickle.dumps(lost))
    assert (str(again), again.task, again.pid, again.exitcode) == (str(lost), 3, 4711, -9)
    for name in exceptions.__all__:
        assert issubclass(getattr(exceptions, name), Exception)


def test_what_is_not_done_can_be_counted_as_programs_do(ctx):
    with ctx.Pool(1) as pool, ctx.Manager() as manager:
        gate = manager.Event()
        results = [pool.apply_async(gate.wait) for _ in range(5)]
        assert len(pool._cache) == 5
        gate.set()
        assert [result.get(PATIENCE) for result in results] == [True] * 5
        assert not pool._cache


def stop_at(x):
    if x == 7:
        raise StopIteration("not the end of anything")
    return x


def test_a_task_that_raises_stop_iteration_cuts_no_results_off(pool):
    with pytest.raises(StopIteration, match="not the end"):
        pool.map(stop_at, range(20), 1)
    # As a generator's (PEP 479), where one loop runs many.
    for size in (2, None):
        with pytest.raises(RuntimeError, match="raised StopIteration"):
            pool.map(stop_at, range(20), size)


def test_limits_of_tasks(ctx):
    with ctx.Pool(1, timeout=0.2) as pool:
        with pytest.raises(TaskTimeoutError) as told:
            pool.apply_async(time.sleep, (PATIENCE,)).get(PATIENCE)
        assert told.value.limit == pytest.approx(0.2)
        # It is the standard's TimeoutError, too.
        assert isinstance(told.value, broody.TimeoutError)
        assert pool.apply_async(square, (4,), timeout=PATIENCE).get(PATIENCE) == 16
        with pytest.raises(TaskMemoryError):
            pool.apply_async(grow, (200_000_000,), timeout=PATIENCE, memory_limit=50_000_000).get(PATIENCE)


def obliging():
    from broody.pool import should_stop

    end = time.monotonic() + PATIENCE
    while not should_stop() and time.monotonic() < end:
        time.sleep(0.01)
    return should_stop()


def test_a_task_may_be_asked_to_stop(pool):
    assert pool.apply_async(obliging, soft_timeout=0.1).get(PATIENCE) is True
    assert pool.apply(should_not_stop) is False


def should_not_stop():
    from broody.pool import should_stop

    return should_stop()


def test_a_running_task_may_be_cancelled(pool):
    pid = pool.apply(os.getpid)
    assert pid in [worker.pid for worker in pool._pool]
    running = [pool.apply_async(time.sleep, (PATIENCE,)) for _ in range(3)]
    time.sleep(0.1)
    for task in running:
        assert task.cancel()
    for task in running:
        with pytest.raises(TaskCancelledError):
            task.get(PATIENCE)
    assert pool.apply(square, (4,)) == 16


def test_pools_in_workers(pool, method):
    assert pool.apply_async(nested, (method,)).get(PATIENCE) == [0, 1, 4, 9]


def test_policies(method):
    for policy in ("fcfs", "sjf", "round_robin", "mlfq"):
        with broody.get_context(method).Pool(2, policy=policy) as pool:
            assert pool.map(square, range(50), 1) == [x * x for x in range(50)]
    with pytest.raises(ValueError, match="nonsense"):
        broody.Pool(2, policy="nonsense")


def test_many_workers_killed_while_they_work(ctx):
    with ctx.Pool(3, retries=20) as pool:
        result = pool.map_async(slow_square, range(600), 1)
        for killed in range(15):
            eventually(lambda: result.ready() or pool.stats()["done"] > 30 * killed)
            try:
                os.kill(random.choice(pool._pool).pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        assert result.get(PATIENCE) == [x * x for x in range(600)]
        assert pool.stats()["started"] > 10


def test_callbacks_come_before_the_result(pool):
    told = []
    pool.apply_async(square, (3,), callback=told.append).get(PATIENCE)
    assert told == [9]
    with pytest.raises(KeyError):
        pool.apply_async(fail, (3,), error_callback=told.append).get(PATIENCE)
    assert isinstance(told[1], KeyError)
    pool.map_async(square, range(3), callback=told.append)
    eventually(lambda: len(told) == 3)
    assert told[2] == [0, 1, 4]


def test_an_ended_pool_refuses_tasks(ctx):
    pool = ctx.Pool(2)
    pids = [worker.pid for worker in pool._pool]
    with pytest.raises(ValueError):
        pool.join()
    pool.close()
    pool.join()
    with pytest.raises(ValueError, match="not running"):
        pool.apply(square, (1,))
    for pid in pids:
        eventually(lambda pid=pid: is_over(pid))
    with pytest.raises(ValueError):
        ctx.Pool(0)


def test_ctrl_c_in_map_ends_it_at_once_and_leaves_nothing(method):
    for how in ("map", "get", "imap", "chunks"):
        with Program("interrupted", method, how) as program:
            pids = list(map(int, program.line().split()))
            os.kill(program.pid, signal.SIGINT)
            code, out, errors = program.end()
            assert (code, out) == (0, "KeyboardInterrupt\n"), errors
            assert errors == ""
            for pid in pids:
                eventually(lambda pid=pid: is_over(pid))


def test_a_pool_that_is_forgotten_ends(method):
    with Program("forgotten", method) as program:
        pids = list(map(int, program.line().split()))
        code, _, errors = program.end()
        assert code == 0, errors
        for pid in pids:
            eventually(lambda pid=pid: is_over(pid))


def test_a_fork_may_forget_its_parents_pool():
    with Program("fork_forgets") as program:
        assert program.end() == (0, "", "")


def test_a_pool_lives_as_long_as_somebody_waits_for_its_results(ctx, tmp_path):
    before = set(descendants(os.getpid()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        assert ctx.Pool(1).apply_async(slow_square, (3,)).get(PATIENCE) == 9
        assert ctx.Pool(2).map_async(slow_square, range(200)).get(PATIENCE) == [x * x for x in range(200)]
        assert list(ctx.Pool(2).imap(slow_square, range(200))) == [x * x for x in range(200)]
        told = threading.Event()
        ctx.Pool(1).apply_async(slow_square, (3,), callback=lambda _: told.set())
        assert told.wait(PATIENCE)
        # And no longer.
        gc.collect()
    # The supervisor stays, and the fork server.
    eventually(lambda: len(set(descendants(os.getpid())) - before) <= 2, "the end of the workers")


def test_workers_that_replace_others_do_not_write_what_the_program_has_buffered(method):
    program = """
import multiprocessing, sys
if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    with multiprocessing.Pool(1, maxtasksperchild=1) as pool:
        print("once")
        pool.map(abs, range(3), 1)
        pool.close()
        pool.join()
"""
    # Buffered, as to any pipe.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "broody", "-c", program, method]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, "once\n"), done.stderr
