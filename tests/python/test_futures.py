"""Executors: futures as the standard's, and what becomes of them when something goes wrong."""

import concurrent.futures
import gc
import itertools
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import FIRST_COMPLETED, CancelledError, as_completed, wait
from concurrent.futures.process import BrokenProcessPool

import broody
import broody.futures
import pytest
from broody.exceptions import PoolBrokenError, TaskExitError, TaskTimeoutError, TransferError, WorkerLostError
from broody.futures import ProcessPoolExecutor
from broody.pool import RemoteTraceback
from conftest import PATIENCE, Program, descendants, eventually, is_over

CHAOS = float(os.environ.get("BROODY_CHAOS_SECONDS", "3"))


def square(x):
    return x * x


def slow_square(x):
    time.sleep(0.001)
    return x * x


def fail(x):
    raise KeyError(x)


def leave(code):
    sys.exit(code)


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(PATIENCE)


def die_once(path):
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "done"
    die()


def raise_once(path):
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "done"
    raise KeyError(path)


def bad_start(word):
    raise RuntimeError(word)


def nested(method):
    with ProcessPoolExecutor(2, broody.get_context(method)) as executor:
        return list(executor.map(square, range(4)))


class SpoiltInWorkers:
    """Pickles, and unpickles only where it was made."""

    def __init__(self):
        self.pid = os.getpid()

    def __reduce__(self):
        return unpickled_in, (self.pid,)


def unpickled_in(pid):
    if os.getpid() != pid:
        raise ValueError("not here")
    return SpoiltInWorkers()


@pytest.fixture
def executor(ctx):
    with ProcessPoolExecutor(2, ctx) as executor:
        yield executor


@pytest.fixture
def one(ctx):
    """An executor with one worker, which is there."""
    with ProcessPoolExecutor(1, ctx) as executor:
        executor.submit(square, 1).result(PATIENCE)
        yield executor


def test_whoever_waits_for_many_hears_of_all_also_of_those_that_end_in_this_moment(executor):
    for _ in range(30):
        done, rest = wait([executor.submit(square, x) for x in range(200)], PATIENCE)
        assert len(done) == 200 and not rest


def test_futures_are_the_standards(executor):
    future = executor.submit(pow, 2, exp=5)
    assert isinstance(future, concurrent.futures.Future)
    assert isinstance(executor, concurrent.futures.Executor)
    assert future.result(PATIENCE) == 32 and future.done() and not future.running() and not future.cancelled()
    assert future.exception() is None
    many = [executor.submit(square, x) for x in range(200)]
    assert sorted(future.result() for future in as_completed(many, PATIENCE)) == [x * x for x in range(200)]
    done, rest = wait([executor.submit(square, x) for x in range(200)], PATIENCE)
    assert len(done) == 200 and not rest
    slow, fast = executor.submit(time.sleep, 1), executor.submit(square, 2)
    done, rest = wait([slow, fast], PATIENCE, FIRST_COMPLETED)
    assert done == {fast} and rest == {slow}
    # Asked again and again, without anybody who listens.
    polled = executor.submit(square, 3)
    eventually(polled.done)
    assert wait([polled], 0).done == {polled}


def test_waiting_for_many_that_are_just_ending_misses_none(executor):
    for _ in range(200):
        futures = [executor.submit(square, x) for x in range(30)]
        done, rest = wait(futures, PATIENCE)
        assert len(done) == 30 and not rest
        assert len(list(as_completed([executor.submit(square, x) for x in range(30)], PATIENCE))) == 30


def test_what_a_call_raises_comes_with_its_traceback(executor):
    future = executor.submit(fail, "x")
    with pytest.raises(KeyError) as told:
        future.result(PATIENCE)
    assert "raise KeyError(x)" in str(told.value.__cause__)
    assert future.exception() is told.value
    # As the standard's, unlike a Pool.
    with pytest.raises(SystemExit):
        executor.submit(leave, 3).result(PATIENCE)
    assert executor.submit(square, 2).result(PATIENCE) == 4


def test_results_reach_callbacks_without_anybody_who_waits(executor):
    threads = threading.active_count()
    told, names = [], []

    def tell(future):
        told.append(future.result())
        names.append(threading.get_ident())

    executor.submit(square, 3).add_done_callback(tell)
    eventually(lambda: told == [9])
    assert names != [threading.get_ident()]
    # No thread of Python's own; the one that calls is the engine's.
    assert threading.active_count() == threads
    future = executor.submit(square, 4)
    assert future.result(PATIENCE) == 16
    future.add_done_callback(tell)
    eventually(lambda: told == [9, 16])


def test_a_dead_worker_fails_its_own_future_only(executor):
    """P3."""
    others = [executor.submit(slow_square, x) for x in range(300)]
    lost = executor.submit(die)
    more = [executor.submit(slow_square, x) for x in range(300)]
    with pytest.raises(BrokenProcessPool, match="SIGKILL") as told:
        lost.result(PATIENCE)
    assert isinstance(told.value, WorkerLostError) and told.value.exitcode == -signal.SIGKILL and told.value.pid
    assert type(told.value) is broody.futures.WorkerLostError
    again = pickle.loads(pickle.dumps(told.value))
    assert type(again) is type(told.value) and again.pid == told.value.pid
    assert [future.result(PATIENCE) for future in others + more] == [x * x for x in range(300)] * 2
    with pytest.raises(BrokenProcessPool):
        list(executor.map(die, [1]))
    assert list(executor.map(square, range(5))) == [0, 1, 4, 9, 16]


def test_calls_may_have_limits_and_be_tried_again(ctx, tmp_path):
    with ProcessPoolExecutor(2, ctx, timeout=PATIENCE, retries=1) as executor:
        assert executor.submit(die_once, str(tmp_path / "first")).result(PATIENCE) == "done"
        quick = executor.options(timeout=0.2)
        with pytest.raises(TaskTimeoutError) as told:
            quick.submit(time.sleep, PATIENCE).result(PATIENCE)
        assert told.value.limit == pytest.approx(0.2)
        assert list(quick.options(timeout=PATIENCE, retries=2).map(square, range(3))) == [0, 1, 4]
        with pytest.raises(WorkerLostError):
            executor.options(retries=0).submit(die).result(PATIENCE)
        again = executor.options(retry_errors=True)
        assert again.submit(raise_once, str(tmp_path / "raised")).result(PATIENCE) == "done"
        with pytest.raises(ValueError):
            executor.options(timeout=-1).submit(square, 1)
        with pytest.raises(TypeError, match="retires"):
            executor.options(retires=1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        quick.submit(square, 1)


def test_a_call_that_has_not_begun_is_cancelled_and_one_that_runs_is_not(one):
    running = one.submit(time.sleep, PATIENCE)
    pending = [one.submit(square, x) for x in range(5)]
    eventually(running.running)
    told = []
    pending[0].add_done_callback(told.append)
    assert not running.cancel() and not running.cancelled()
    assert pending[0].cancel() and pending[0].cancelled() and pending[0].cancel()
    assert told == [pending[0]]
    with pytest.raises(CancelledError):
        pending[0].result()
    assert wait(pending[:1], PATIENCE).done == {pending[0]}
    assert not pending[1].done() and not pending[1].running()
    # There is a way to end it.
    assert running.terminate() and running.cancelled()
    with pytest.raises(CancelledError):
        running.result()
    assert [future.result(PATIENCE) for future in pending[1:]] == [1, 4, 9, 16]
    assert not pending[1].cancel() and not pending[1].terminate()
    other = one.options(cancel_running=True).submit(time.sleep, PATIENCE)
    eventually(other.running)
    assert other.cancel() and other.cancelled()


def test_many_are_cancelled_while_others_wait_for_them(executor):
    futures = [executor.submit(time.sleep, 0.001) for _ in range(500)]
    waiter = threading.Thread(target=wait, args=(futures, PATIENCE))
    waiter.start()
    cancelled = [future for future in reversed(futures) if future.cancel()]
    waiter.join(PATIENCE)
    assert not waiter.is_alive() and cancelled
    for future in futures:
        assert future.done() and future.cancelled() == (future in cancelled)


def test_map_is_lazy_in_what_it_gives_and_eager_in_what_it_takes(executor):
    assert list(executor.map(pow, range(10), range(10))) == [x**x for x in range(10)]
    assert list(executor.map(pow, range(10), range(7), chunksize=3)) == [x**x for x in range(7)]
    assert list(executor.map(square, [])) == [] and list(executor.map(square)) == []
    taken = []
    results = executor.map(square, (taken.append(x) or x for x in range(1000)))
    assert len(taken) == 1000
    assert next(results) == 0
    with pytest.raises(KeyError):
        list(executor.map(fail, [1]))
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(executor.map(next, [iter([])]))
    for bad in (0, -1):
        with pytest.raises(ValueError):
            executor.map(square, [1], chunksize=bad)
        with pytest.raises(ValueError):
            executor.map(square, [1], buffersize=bad)
    with pytest.raises(TypeError):
        executor.map(square, [1], buffersize=1.5)


def test_ctrl_c_while_items_are_taken_is_told_at_once(executor):
    def items(number):
        yield from range(number)
        raise KeyboardInterrupt

    for buffersize in (None, 5):
        with pytest.raises(KeyboardInterrupt):
            executor.map(square, items(3), buffersize=buffersize)
    assert executor.submit(square, 3).result(PATIENCE) == 9


def test_a_buffer_bounds_what_map_takes(executor):
    taken = itertools.count()
    results = executor.map(square, (next(taken) for _ in itertools.count()), buffersize=4)
    before = next(taken)
    assert before <= 4
    for number in range(1, 20):
        next(results)
        assert next(taken) - before <= 2 * number + 4
    # An endless iterator keeps nobody from ending.
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        list(results)


def test_map_has_a_deadline(executor):
    with pytest.raises(TimeoutError):
        list(executor.map(time.sleep, [0, PATIENCE], timeout=0.5))
    executor.kill_workers()


def test_who_stops_taking_from_a_map_gives_the_rest_up(one, tmp_path):
    results = one.map(touch, [str(tmp_path / str(x)) for x in range(500)])
    next(results)
    results.close()
    one.submit(square, 1).result(PATIENCE)
    assert len(list(tmp_path.iterdir())) < 500
    # Whoever never begins with it wants all of it.
    unasked = tmp_path / "unasked"
    unasked.mkdir()
    one.map(touch, [str(unasked / str(x)) for x in range(50)])
    one.shutdown()
    assert len(list(unasked.iterdir())) == 50


def touch(path):
    time.sleep(0.002)
    open(path, "w").close()


def test_shutdown(ctx):
    with ProcessPoolExecutor(1, ctx) as executor:
        running = executor.submit(time.sleep, 0.3)
        eventually(running.running)
        waiting = [executor.submit(square, x) for x in range(20)]
        results = executor.map(square, range(20))
        executor.shutdown(cancel_futures=True)
        assert running.result(0) is None
        assert all(future.cancelled() for future in waiting)
        with pytest.raises(CancelledError):
            list(results)
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(square, 1)
        executor.shutdown()
    executor = ProcessPoolExecutor(2, ctx)
    futures = [executor.submit(slow_square, x) for x in range(100)]
    pids = list(executor._processes)
    executor.shutdown(wait=False)
    assert [future.result(PATIENCE) for future in futures] == [x * x for x in range(100)]
    eventually(lambda: all(map(is_over, pids)))
    # Nothing was submitted: there is nothing to end.
    ProcessPoolExecutor(2, ctx).shutdown()


def test_callbacks_have_run_when_shutdown_returns(executor):
    told = []
    for x in range(50):
        executor.submit(square, x).add_done_callback(lambda future: (time.sleep(0.002), told.append(future.result())))
    # A callback may do it, too.
    executor.submit(square, 1).add_done_callback(lambda _: executor.shutdown())
    executor.shutdown()
    assert len(told) == 50


def test_workers_are_ended(ctx):
    for end in ("terminate_workers", "kill_workers"):
        with ProcessPoolExecutor(2, ctx, retries=3) as executor:
            futures = [executor.submit(time.sleep, PATIENCE) for _ in range(4)]
            eventually(lambda: sum(future.running() for future in futures) == 2)
            pids = list(executor._processes)
            getattr(executor, end)()
            for future in futures:
                with pytest.raises(BrokenProcessPool):
                    future.result(PATIENCE)
            eventually(lambda: all(map(is_over, pids)))
            with pytest.raises(RuntimeError):
                executor.submit(square, 1)


def deaf(path):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(path, "w").close()
    # Longer than anybody waits for it.
    time.sleep(100 * PATIENCE)


def test_workers_that_do_not_listen_to_sigterm_are_killed(ctx, monkeypatch, tmp_path):
    monkeypatch.setattr(broody.futures, "_GRACE", 0.3)
    with ProcessPoolExecutor(1, ctx) as executor:
        path = tmp_path / "begun"
        future = executor.submit(deaf, str(path))
        eventually(path.exists)
        try:
            executor.terminate_workers()
            with pytest.raises(BrokenProcessPool):
                future.result(PATIENCE)
        finally:
            executor.kill_workers()


def test_an_initializer_that_fails_breaks_the_executor(ctx):
    with ProcessPoolExecutor(2, ctx, initializer=bad_start, initargs=("no such model",)) as executor:
        future = executor.submit(square, 1)
        with pytest.raises(BrokenProcessPool, match="no such model") as told:
            future.result(PATIENCE)
        assert isinstance(told.value, PoolBrokenError)
        assert executor._broken
        with pytest.raises(BrokenProcessPool):
            executor.submit(square, 1)


def test_what_does_not_pickle_fails_its_own_call(executor):
    with pytest.raises(TypeError, match="pickle"):
        executor.submit(square, threading.Lock()).result(PATIENCE)
    with pytest.raises(TypeError, match="pickle"):
        list(executor.map(square, [threading.Lock()]))
    with pytest.raises(TypeError, match="pickle"):
        executor.submit(threading.Lock).result(PATIENCE)
    # In the worker, and here.
    for call in (lambda: executor.submit(id, SpoiltInWorkers()), lambda: executor.submit(SpoiltInWorkers)):
        with pytest.raises(BrokenProcessPool, match="not here") as told:
            call().result(PATIENCE)
        assert isinstance(told.value, TransferError) and told.value.__cause__ is not None
    assert executor.submit(square, 3).result(PATIENCE) == 9


def test_a_worker_is_replaced_after_its_share(ctx):
    with ProcessPoolExecutor(1, ctx, max_tasks_per_child=3) as executor:
        pids = [executor.submit(os.getpid).result(PATIENCE) for _ in range(7)]
        assert len(set(pids[:3])) == len(set(pids[3:6])) == 1
        assert len(set(pids)) == 3
    assert ProcessPoolExecutor(1, max_tasks_per_child=3)._mp_context.get_start_method() == "spawn"


def test_arguments_that_are_refused():
    with pytest.raises(ValueError, match="greater than 0"):
        ProcessPoolExecutor(0)
    with pytest.raises(TypeError):
        ProcessPoolExecutor(1, initializer=3)
    with pytest.raises(TypeError):
        ProcessPoolExecutor(1, max_tasks_per_child=1.5)
    with pytest.raises(ValueError):
        ProcessPoolExecutor(1, max_tasks_per_child=0)
    for refused in (pickle.dumps, lambda executor: pickle.dumps(executor.submit(square, 1))):
        with ProcessPoolExecutor(1) as executor, pytest.raises(TypeError):
            refused(executor)


def test_a_context_of_the_standard_module_says_the_start_method(method):
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as executor:
        assert executor.submit(square, 3).result(PATIENCE) == 9


def test_executors_in_workers(executor, method):
    assert executor.submit(nested, method).result(PATIENCE) == [0, 1, 4, 9]
    with ProcessPoolExecutor(1, broody.get_context(method)) as other:
        # What a task's own executor tells is the task's error, and not this executor's.
        with pytest.raises(TaskExitError) as told:
            other.submit(told_by_a_pool).result(PATIENCE)
        assert "told_by_a_pool" in str(told.value.__cause__)


def told_by_a_pool():
    with broody.Pool(1) as pool:
        pool.apply(leave, (3,))


def test_workers_are_killed_at_random(ctx):
    """For some seconds; BROODY_CHAOS_SECONDS says how many."""
    # The supervisor and the fork server are there from now on.
    with ProcessPoolExecutor(1, ctx) as executor:
        executor.submit(square, 1).result(PATIENCE)
    before, threads, below = descriptors(), threading.active_count(), descendants(os.getpid())
    end = time.monotonic() + CHAOS
    lost = kills = done = 0
    with ProcessPoolExecutor(3, ctx) as executor:
        while time.monotonic() < end:
            futures = [executor.submit(slow_square, x) for x in range(200)]
            again = executor.options(retries=1000).map(slow_square, range(200))
            listened = []
            futures[-1].add_done_callback(listened.append)
            for worker in random.sample(list(executor._processes.values()), k=2):
                time.sleep(random.random() * 0.02)
                worker.kill()
                kills += 1
            for x, future in enumerate(futures):
                try:
                    assert future.result(PATIENCE) == x * x
                    done += 1
                except WorkerLostError:
                    lost += 1
            assert list(again) == [x * x for x in range(200)]
            eventually(lambda: listened)
        assert executor.submit(square, 3).result(PATIENCE) == 9
    assert done and 0 < kills and lost <= kills
    # Nothing of all those workers is left.
    eventually(lambda: descendants(os.getpid()) <= below, "the end of the workers")
    assert threading.active_count() <= threads
    del executor, futures, future, again, listened, worker
    gc.collect()
    eventually(lambda: descriptors() <= before, f"the end of descriptors: {before} before")


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_an_executor_that_is_never_shut_down_does_what_it_has(method):
    for how, said in (("never_shut_down", "called done"), ("forgotten", "done mapped"), ("not_waited_for", "done")):
        with Program("executor", method, how) as program:
            code, out, errors = program.end()
            assert (code, " ".join(sorted(out.split())), errors) == (0, said, ""), how


def test_a_host_that_is_killed_leaves_no_worker(method):
    """P2."""
    with Program("executor", method, "killed") as program:
        pids = list(map(int, program.line().split()))
        assert len(pids) == 2
        program.process.kill()
        for pid in pids:
            eventually(lambda pid=pid: is_over(pid))


def test_a_fork_of_the_host_has_no_executor(method):
    with Program("executor", method, "forked") as program:
        code, out, errors = program.end()
        assert (code, out.split()) == (0, ["3", "RuntimeError", "4"]), errors


# What pickle refuses


def run_at_a_prompt(program, method):
    """A program that is no file."""
    program = textwrap.dedent(program)
    return subprocess.run(
        [sys.executable, "-c", program, method], capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL
    )


def test_lambdas_and_closures_go_by_value(executor):
    pytest.importorskip("cloudpickle")
    factor = 3
    assert executor.submit(lambda x: x * factor, 5).result(PATIENCE) == 15
    assert list(executor.map(lambda x: x + factor, range(3))) == [3, 4, 5]
    assert executor.submit(lambda: lambda x: x + factor).result(PATIENCE)(1) == 4

    class Local(Exception):
        pass

    def raise_local():
        raise Local("here")

    with pytest.raises(Local, match="here"):
        executor.submit(raise_local).result(PATIENCE)


def test_what_is_defined_at_a_prompt_is_found_in_workers(method):
    pytest.importorskip("cloudpickle")
    done = run_at_a_prompt(
        """
        import sys, broody
        from broody.futures import ProcessPoolExecutor

        start = []
        def begin(word):
            start.append(word)
        def add(x):
            return Number(x.value + one)
        class Number:
            def __init__(self, value):
                self.value = value
        one = 1
        context = broody.get_context(sys.argv[1])
        with ProcessPoolExecutor(2, context, initializer=begin, initargs=("begun",)) as executor:
            print(executor.submit(add, Number(1)).result().value)
            def later(x):
                return type(add(x)) is Number
            print(list(executor.map(later, [Number(2)])), isinstance(executor.submit(add, Number(1)).result(), Number))
        with context.Pool(2) as pool:
            print(pool.map(lambda x: x * 2, range(3)), pool.apply(add, (Number(4),)).value)
        """,
        method,
    )
    assert (done.stdout, done.returncode) == ("2\n[True] True\n[0, 2, 4] 5\n", 0), done.stderr


def test_without_cloudpickle_the_error_is_pickles_own(method):
    done = run_at_a_prompt(
        """
        import sys, broody
        sys.modules["cloudpickle"] = None
        from broody.futures import ProcessPoolExecutor
        with ProcessPoolExecutor(1, broody.get_context(sys.argv[1])) as executor:
            print(type(executor.submit(lambda: 1).exception()).__name__)
        """,
        method,
    )
    assert done.stdout in ("PicklingError\n", "AttributeError\n"), done.stderr


def test_the_cause_is_the_standards_where_programs_may_ask_for_it(executor):
    cause = executor.submit(fail, 1).exception(PATIENCE).__cause__
    assert type(cause) is concurrent.futures.process._RemoteTraceback and "KeyError" in cause.tb
    with broody.Pool(1) as pool, pytest.raises(KeyError) as told:
        pool.apply(fail, (1,))
    assert type(told.value.__cause__) is RemoteTraceback
