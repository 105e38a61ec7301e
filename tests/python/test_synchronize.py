"""Locks and their like, and the deaths of those who use them."""

import os
import signal
import threading
import time
import warnings

import pytest
from conftest import PATIENCE, eventually

from broody import synchronize
from broody.exceptions import OwnerDiedError, OwnerDiedWarning


def take_and_stay(lock, taken):
    lock.acquire()
    taken.set()
    time.sleep(PATIENCE)


def kill_with(ctx, lock):
    """Somebody takes `lock` and is killed."""
    taken = ctx.Event()
    process = ctx.Process(target=take_and_stay, args=(lock, taken))
    process.start()
    assert taken.wait(PATIENCE)
    os.kill(process.pid, signal.SIGKILL)
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_a_killed_holder_frees_its_lock_and_the_next_one_is_warned(ctx, kind):
    lock = getattr(ctx, kind)()
    kill_with(ctx, lock)
    with pytest.warns(OwnerDiedWarning):
        assert lock.acquire(timeout=PATIENCE)
    lock.release()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lock.acquire(False), "the one after that is not told"
    lock.release()


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_a_strict_lock_raises_and_is_free_then(ctx, kind):
    lock = getattr(ctx, kind)(strict=True)
    kill_with(ctx, lock)
    with pytest.raises(OwnerDiedError), lock:
        raise AssertionError("it is not to be entered")
    assert not lock.locked()
    with lock:
        assert lock.locked()


def test_who_waits_for_the_lock_of_a_killed_process_gets_it(ctx):
    lock, taken = ctx.Lock(), ctx.Event()
    process = ctx.Process(target=take_and_stay, args=(lock, taken))
    process.start()
    assert taken.wait(PATIENCE)
    killer = threading.Timer(0.1, os.kill, (process.pid, signal.SIGKILL))
    killer.start()
    with pytest.warns(OwnerDiedWarning):
        assert lock.acquire(timeout=PATIENCE)
    killer.join()
    process.join()


def test_the_permits_of_a_killed_process_are_free_and_its_tokens_gone(ctx):
    permits, tokens = ctx.BoundedSemaphore(1), ctx.Semaphore(1)
    kill_with(ctx, permits)
    kill_with(ctx, tokens)
    assert permits.acquire(timeout=PATIENCE)
    assert not tokens.acquire(False)


def test_a_bounded_semaphore_of_any_size_keeps_its_bound(ctx):
    for value in (0, 1, 507, 508, 2**31 - 1):
        permits = ctx.BoundedSemaphore(value)
        assert permits.get_value() == value
        with pytest.raises(ValueError, match="too many times"):
            permits.release()
        if value:
            assert permits.acquire()
            permits.release()
    for value in (-1, 2**31):
        with pytest.raises(ValueError):
            ctx.Semaphore(value)


def wait_at(barrier, here):
    here.release()
    barrier.wait()


def test_a_party_that_is_killed_breaks_the_barrier(ctx):
    barrier, here = ctx.Barrier(3), ctx.Semaphore(0)
    waiting = [ctx.Process(target=wait_at, args=(barrier, here)) for _ in range(2)]
    for process in waiting:
        process.start()
        assert here.acquire(timeout=PATIENCE)
    eventually(lambda: barrier.n_waiting == 2)
    os.kill(waiting[0].pid, signal.SIGKILL)
    waiting[0].join(PATIENCE)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(PATIENCE)
    waiting[1].join(PATIENCE)
    assert waiting[1].exitcode == 1


def wait_for(condition, woken):
    with condition:
        condition.wait()
        woken.release()


def test_a_notification_of_one_who_is_killed_passes_on(ctx):
    condition, woken = ctx.Condition(), ctx.Semaphore(0)
    waiting = []
    for count in (1, 2):
        waiting.append(ctx.Process(target=wait_for, args=(condition, woken)))
        waiting[-1].start()
        eventually(lambda count=count: condition._waiting() == count)
    with condition:
        # The one that has waited longest is notified, and is killed before it can have the lock.
        condition.notify()
        os.kill(waiting[0].pid, signal.SIGKILL)
        waiting[0].join(PATIENCE)
    assert woken.acquire(timeout=PATIENCE)
    waiting[1].join(PATIENCE)
    assert waiting[1].exitcode == 0


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore"])
def test_a_condition_takes_a_lock_of_any_kind(ctx, kind):
    condition, woken = ctx.Condition(getattr(ctx, kind)()), ctx.Semaphore(0)
    process = ctx.Process(target=wait_for, args=(condition, woken))
    process.start()
    eventually(lambda: condition._waiting() == 1)
    with condition:
        condition.notify_all()
        assert not woken.acquire(timeout=0.05), "the lock is not free yet"
    assert woken.acquire(timeout=PATIENCE)
    process.join()
    with condition:
        assert not condition.wait(0.01)
    if kind != "Semaphore":
        with pytest.raises(AssertionError):
            condition.notify()


class Interrupted(Exception):
    pass


def waits(ctx):
    """What waits for ever, by name."""
    held = ctx.Lock()
    held.acquire()
    condition = ctx.Condition()
    condition.acquire()
    queue = ctx.Queue(1)
    queue.put(1)
    joinable = ctx.JoinableQueue()
    joinable.put(1)
    return {
        "lock": held.acquire, "semaphore": ctx.Semaphore(0).acquire, "bounded": ctx.BoundedSemaphore(0).acquire,
        "event": ctx.Event().wait, "condition": condition.wait, "barrier": ctx.Barrier(2).wait,
        "get": ctx.Queue().get, "put": lambda: queue.put(2), "simple": ctx.SimpleQueue().get, "join": joinable.join,
    }  # fmt: skip


@pytest.mark.parametrize("name", list(waits(synchronize.context._default_context)))
def test_a_signal_handler_runs_in_every_wait_and_ends_it_by_raising(name):
    wait = waits(synchronize.context._default_context)[name]
    calls = []

    def handle(number, frame):
        calls.append(number)
        # The first one changes nothing: the wait goes on.
        if len(calls) == 2:
            raise Interrupted

    def interrupt():
        for count in (1, 2):
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGUSR1)
            eventually(lambda count=count: len(calls) >= count)

    before = signal.signal(signal.SIGUSR1, handle)
    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    try:
        with pytest.raises(Interrupted):
            wait()
    finally:
        interrupter.join()
        signal.signal(signal.SIGUSR1, before)


def test_a_signal_in_the_middle_of_a_wait_loses_no_notification(ctx):
    condition, woken = ctx.Condition(), []

    def notify():
        for _ in range(20):
            os.kill(os.getpid(), signal.SIGUSR1)
        with condition:
            condition.notify()

    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        for _ in range(20):
            with condition:
                notifier = threading.Thread(target=notify)
                notifier.start()
                woken.append(condition.wait(PATIENCE))
            notifier.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert all(woken)


def look(lock, seen):
    seen.put(repr(lock))


def test_a_lock_says_who_has_it(ctx):
    lock, seen = ctx.Lock(), ctx.SimpleQueue()
    assert repr(lock) == "<Lock(owner=None)>"
    with lock:
        assert repr(lock) == "<Lock(owner=MainProcess)>"
        process = ctx.Process(target=look, args=(lock, seen))
        process.start()
        assert seen.get() == "<Lock(owner=SomeOtherProcess)>"
        process.join()
        thread = threading.Thread(target=look, args=(lock, seen))
        thread.start()
        assert seen.get() == "<Lock(owner=SomeOtherThread)>"
        thread.join()


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event", "Queue"])
def test_what_is_shared_is_pickled_at_the_start_of_a_process_only(ctx, kind):
    import pickle

    with pytest.raises(RuntimeError, match="through inheritance"):
        pickle.dumps(getattr(ctx, kind)())
