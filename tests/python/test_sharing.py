"""Locks, queues and shared memory as parts of tasks, of results and of messages."""

import os
import pickle
import random
import signal
import time

import broody
import pytest
from broody.exceptions import OwnerDiedWarning, WorkerLostError
from broody.futures import ProcessPoolExecutor
from conftest import PATIENCE

CHAOS = float(os.environ.get("BROODY_CHAOS_SECONDS", "3"))


def count(lock, number):
    with lock:
        number.value += 1
    return lock


def count_twice(items):
    return count(*items), count(*items)


def give_back(obj):
    return obj


def keep_and_die(lock):
    lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(PATIENCE)


def die_once(path, lock, number):
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        count(lock, number)
        return
    keep_and_die(lock)


def count_and_tell(queue, lock, number, event):
    with lock:
        number.value += 1
    event.set()
    queue.put(event)
    return broody.Value("i", 7)


def send_and_die(queue, lock, number):
    queue.put((lock, number, bytearray(100_000)))
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(PATIENCE)


def test_what_is_shared_goes_through_tasks_and_results(ctx):
    lock, number = ctx.Lock(), ctx.Value("i", 0)
    with ctx.Pool(2) as pool:
        mine = pool.apply(count, (lock, number))
        assert number.value == 1
        with mine:
            assert not lock.acquire(timeout=0.01)
        for locks in pool.map(count_twice, [(lock, number)] * 10):
            assert not any(each.locked() for each in locks)
        assert len(list(pool.imap_unordered(count_twice, [(lock, number)] * 10, chunksize=3))) == 10
        assert len(pool.starmap(count, [(lock, number)] * 10, chunksize=1)) == 10
        assert number.value == 51
        queue = pool.apply(give_back, (ctx.Queue(),))
        pool.apply_async(queue.put, ("through the queue",))
        assert queue.get(timeout=PATIENCE) == "through the queue"


def test_every_kind_of_object_goes_through_a_queue(ctx):
    queue = ctx.Queue()
    objects = [
        ctx.Lock(), ctx.RLock(), ctx.Semaphore(3), ctx.BoundedSemaphore(3), ctx.Condition(), ctx.Event(), ctx.Barrier(1),
        ctx.Queue(), ctx.JoinableQueue(), ctx.SimpleQueue(), ctx.Value("d", 1.5), ctx.Array("i", 5), ctx.RawArray("i", 5),
    ]  # fmt: skip
    queue.put(objects)
    queue.put(objects[0])
    got = queue.get(timeout=PATIENCE)
    assert [type(each) for each in got] == [type(each) for each in objects]
    assert objects[0].acquire() and not got[0].acquire(False) and not queue.get(timeout=PATIENCE).acquire(False)
    got[5].set()
    assert objects[5].is_set()
    got[7].put(1)
    assert objects[7].get(timeout=PATIENCE) == 1
    got[11][3] = 7
    assert objects[11][:] == [0, 0, 0, 7, 0]


def test_an_executor_runs_methods_of_what_is_shared(ctx):
    tokens = ctx.Semaphore(0)
    with ProcessPoolExecutor(2, ctx) as executor:
        futures = [executor.submit(tokens.acquire) for _ in range(6)]
        for _ in futures:
            tokens.release()
        assert all(future.result(PATIENCE) for future in futures)


def test_functions_of_map_may_be_methods_of_what_is_shared(ctx):
    queue = ctx.Queue()
    with ctx.Pool(2) as pool:
        pool.map(queue.put, range(50), chunksize=7)
        assert len(list(pool.imap(queue.put, range(50, 100)))) == 50
        first = pool.map(ctx.Queue().put, range(5))
    assert sorted(queue.get(timeout=PATIENCE) for _ in range(100)) == list(range(100))
    assert first == [None] * 5


def test_a_lock_in_a_task_is_free_when_the_worker_is_killed(ctx):
    lock = ctx.Lock()
    with ctx.Pool(2) as pool:
        with pytest.raises(WorkerLostError):
            pool.apply(keep_and_die, (lock,))
        with pytest.warns(OwnerDiedWarning):
            assert lock.acquire(timeout=PATIENCE)
        lock.release()


@pytest.mark.filterwarnings("ignore::broody.exceptions.OwnerDiedWarning")
def test_a_task_is_tried_again_with_what_it_shares(ctx, tmp_path):
    lock, number = ctx.Lock(), ctx.Value("i", 0)
    with ctx.Pool(2, retries=1) as pool:
        pool.apply(die_once, (str(tmp_path / "first"), lock, number))
    assert number.value == 1 and not lock.locked()


def test_what_a_killed_process_has_put_is_whole(ctx):
    queue, lock, number = ctx.Queue(), ctx.Lock(), ctx.Value("i", 3)
    child = ctx.Process(target=send_and_die, args=(queue, lock, number))
    child.start()
    child.join(PATIENCE)
    assert child.exitcode == -signal.SIGKILL
    theirs, value, rest = queue.get(timeout=PATIENCE)
    assert theirs.acquire() and not lock.acquire(False)
    assert (value.value, len(rest)) == (3, 100_000)


def test_objects_that_were_sent_are_freed():
    # More than a program can have at a time.
    queue = broody.Queue()
    for _ in range(270_000):
        queue.put(broody.Event())
        queue.get()
    with broody.Pool(2) as pool:
        for _ in range(30):
            assert len(pool.map(give_back, [broody.Event() for _ in range(9_000)])) == 9_000


@pytest.mark.filterwarnings("ignore::broody.exceptions.OwnerDiedWarning")
def test_what_is_shared_outlives_workers_that_are_killed_at_random(ctx):
    """For some seconds; BROODY_CHAOS_SECONDS says how many."""
    queue, lock, number = ctx.Queue(), ctx.Lock(), ctx.Value("i", 0)
    end, done, lost = time.monotonic() + CHAOS, 0, 0
    with ctx.Pool(3) as pool:
        while time.monotonic() < end:
            tasks = [pool.apply_async(count_and_tell, (queue, lock, number, ctx.Event())) for _ in range(50)]
            time.sleep(random.random() * 0.01)
            random.choice(pool._pool).kill()
            for task in tasks:
                try:
                    assert task.get(PATIENCE).value == 7
                    done += 1
                except WorkerLostError:
                    lost += 1
    assert done > 0
    # Whoever was killed had counted, or not; had told of it, or not.
    assert done <= number.value <= done + lost
    told = 0
    while not queue.empty():
        assert queue.get(timeout=PATIENCE).is_set()
        told += 1
    assert done <= told <= done + lost
    assert lock.acquire(timeout=PATIENCE)
    lock.release()


def test_a_lambda_takes_what_is_shared_along(ctx):
    pytest.importorskip("cloudpickle")
    number = ctx.Value("i", 0)

    def add(more):
        with number:
            number.value += more

    with ctx.Pool(1) as pool:
        pool.apply(add, (5,))
        pool.map(lambda more: add(more), [1, 2])
    assert number.value == 8


def test_elsewhere_nobody_would_answer_for_it(ctx):
    lock = ctx.Lock()
    ours, theirs = ctx.Pipe()
    for give in (lambda: pickle.dumps(lock), lambda: ours.send(lock)):
        with pytest.raises(RuntimeError, match="inheritance"):
            give()
    # Nothing of it was sent.
    ours.send("next")
    assert theirs.recv() == "next"
