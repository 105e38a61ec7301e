"""Managers whose clients die, whose server dies, and who is not let in."""

import contextlib
import gc
import os
import queue
import signal
import socket
import struct
import threading
import traceback
from pathlib import Path

import pytest
from broody import AuthenticationError, ProcessError, connection, managers
from conftest import PATIENCE, Program, dies_unaided, eventually, is_over

KEY = b"a key"
GONE = (EOFError, OSError)


@pytest.fixture
def manager(ctx):
    with managers.SyncManager(ctx=ctx) as manager:
        yield manager


class Interrupted(Exception):
    pass


def start(ctx, target, *args):
    child = ctx.Process(target=target, args=args, daemon=True)
    child.start()
    return child


def kill(child):
    child.kill()
    child.join(PATIENCE)
    assert child.exitcode == -signal.SIGKILL



def hold_objects(address, key, conn):
    other = managers.SyncManager(address, key)
    other.connect()
    held = [other.list([other.dict()]), other.Queue()]
    conn.send(len(held))
    signal.pause()


def call(conn, method, *args):
    conn.send("calling")
    method(*args)


def hold(conn, lock):
    lock.acquire()
    conn.send("held")
    signal.pause()


def take(lock):
    lock.acquire()


def add_to(numbers, more):
    numbers.extend(more)


def wait_for_notice(conn, condition):
    with condition:
        conn.send("waiting")
        condition.wait()
        conn.send("notified")


def in_a_thread(function, *args):
    results = queue.Queue()
    thread = threading.Thread(target=lambda: results.put(function(*args)), daemon=True)
    thread.start()
    return results


def start_in_a_call(ctx, manager, method, *args):
    """A child in the middle of a blocking call."""
    ours, theirs = ctx.Pipe()
    server = Path(f"/proc/{manager._process.pid}/task")
    manager._number_of_objects()
    child = start(ctx, call, theirs, method, *args)
    assert ours.recv() == "calling"
    # Nothing else tells that the request has come: another one, afterwards, over the same kind of way does so most likely.
    for _ in range(20):
        manager._number_of_objects()
        threading.Event().wait(0.01)
    assert server.exists()
    return child


# Clients that are killed.


def test_a_killed_client_refers_to_nothing(ctx, manager):
    ours, theirs = ctx.Pipe()
    child = start(ctx, hold_objects, manager.address, bytes(manager._authkey), theirs)
    assert ours.recv() == 2
    # The dictionary is the list's alone.
    assert manager._number_of_objects() == 2
    kill(child)
    eventually(lambda: manager._number_of_objects() == 0, "the end of the references")


def test_a_client_that_ended_refers_to_nothing(ctx, manager):
    numbers = manager.list()
    child = start(ctx, add_to, numbers, [1])
    child.join(PATIENCE)
    del numbers
    gc.collect()
    assert manager._number_of_objects() == 0


def test_who_is_killed_while_it_waits_for_an_item_takes_none(ctx, manager):
    items = manager.Queue()
    child = start_in_a_call(ctx, manager, items.get)
    kill(child)
    items.put("for the living")
    assert items.get(timeout=PATIENCE) == "for the living"


def test_who_is_killed_while_it_waits_for_a_lock_does_not_get_it(ctx, manager):
    lock = manager.Lock()
    lock.acquire()
    child = start_in_a_call(ctx, manager, lock.acquire)
    kill(child)
    lock.release()
    assert lock.acquire(timeout=PATIENCE)


@pytest.mark.parametrize("kind", ["Lock", "RLock", "BoundedSemaphore"])
def test_what_a_killed_client_held_is_free(ctx, manager, kind):
    lock = getattr(manager, kind)()
    ours, theirs = ctx.Pipe()
    child = start(ctx, hold, theirs, lock)
    assert ours.recv() == "held"
    assert not lock.acquire(False)
    kill(child)
    assert lock.acquire(timeout=PATIENCE)
    lock.release()


def test_a_lock_that_was_handed_on_stays_held(ctx, manager):
    lock = manager.Lock()
    child = start(ctx, take, lock)
    child.join(PATIENCE)
    assert not lock.acquire(False)
    lock.release()


def test_a_barrier_breaks_when_a_party_is_killed(ctx, manager):
    barrier = manager.Barrier(2)
    child = start(ctx, barrier.wait)
    eventually(lambda: barrier.n_waiting == 1)
    kill(child)
    eventually(lambda: barrier.broken)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(PATIENCE)


def test_a_notice_to_a_killed_waiter_reaches_the_next(ctx, manager):
    condition = manager.Condition()
    waiters = []
    for _ in range(2):
        ours, theirs = ctx.Pipe()
        waiters.append((start(ctx, wait_for_notice, theirs, condition), ours))
        assert ours.recv() == "waiting"
        # It waits when the lock is free.
        condition.acquire()
        condition.release()
    kill(waiters[0][0])
    with condition:
        condition.notify()
    assert waiters[1][1].poll(PATIENCE)
    assert waiters[1][1].recv() == "notified"
    waiters[1][0].join(PATIENCE)


def test_an_interrupted_call_leaves_the_proxy_usable(manager):
    def handler(*_):
        raise Interrupted

    event, lock = manager.Event(), manager.RLock()
    lock.acquire()
    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Interrupted):
            event.wait()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not event.is_set()
    # The lock is still this thread's.
    lock.release()


# Servers that end.


def test_a_killed_manager_is_an_error_and_no_hang(ctx):
    manager = managers.SyncManager(ctx=ctx)
    manager.start()
    numbers, event = manager.list([1]), manager.Event()
    waiting = in_a_thread(lambda: pytest.raises(GONE, event.wait))
    os.kill(manager._process.pid, signal.SIGKILL)
    manager._process.join(PATIENCE)
    waiting.get(timeout=PATIENCE)
    for _ in range(2):
        with pytest.raises(GONE):
            numbers.append(2)
    with pytest.raises(GONE):
        manager.dict()
    assert "failed" in str(numbers)
    manager.shutdown()


def test_a_manager_ends_with_its_program(method):
    with Program("managed", method) as program:
        server = int(program.line())
        program.process.kill()
        eventually(lambda: is_over(server), "the end of the manager")


def test_proxies_after_a_shutdown_say_so(ctx):
    manager = managers.SyncManager(ctx=ctx)
    with manager:
        numbers = manager.list()
        numbers.append(1)
    with pytest.raises(GONE):
        numbers.append(2)
    with pytest.raises(ProcessError, match="shut down"):
        manager.start()
    manager.shutdown()


def refuse():
    raise LookupError("not today")


def test_what_goes_wrong_at_the_start_is_told(ctx):
    manager = managers.SyncManager(ctx=ctx)
    with pytest.raises(LookupError, match="not today"):
        manager.start(refuse)
    with pytest.raises(OSError):
        managers.SyncManager("/nowhere/at/all", ctx=ctx).start()


def test_a_manager_starts_again_at_the_same_address(ctx):
    with managers.SyncManager(("127.0.0.1", 0), KEY, ctx=ctx) as first:
        address = first.address
        assert list(first.list([1])) == [1]
    with managers.SyncManager(address, KEY, ctx=ctx) as second:
        assert list(second.list([2])) == [2]


def test_a_manager_that_talks_xml_ends_when_it_is_told(ctx):
    with managers.SyncManager(("127.0.0.1", 0), KEY, "xmlrpclib", ctx=ctx) as manager:
        items = manager.Queue()
        items.put(1)
        assert items.get() == 1
    assert manager._process.exitcode == 0


def test_a_server_in_this_process_can_be_stopped():
    server = managers.SyncManager(authkey=KEY).get_server()

    def serve():
        with pytest.raises(SystemExit):
            server.serve_forever()

    thread = threading.Thread(target=serve)
    thread.start()
    client = managers.SyncManager(server.address, KEY)
    client.connect()
    event = client.Event()
    waiting = in_a_thread(lambda: pytest.raises(GONE, event.wait))
    numbers = client.list([1])
    assert list(numbers) == [1]
    server.stop_event.set()
    waiting.get(timeout=PATIENCE)
    thread.join(PATIENCE)
    assert not thread.is_alive()


# Who is not let in.


def test_a_wrong_key_is_refused_and_nobody_else(manager):
    numbers = manager.list([1])
    stranger = managers.SyncManager(manager.address, b"another key")
    with pytest.raises(AuthenticationError):
        stranger.connect()
    manager.connect()
    assert list(numbers) == [1]


@pytest.mark.parametrize("frame", [b"", b"GET / HTTP/1.0\r\n\r\n", struct.pack("!i", -1) + b"\xff" * 8, struct.pack("!i", 1 << 30)])
def test_who_talks_nonsense_is_not_heard(manager, frame):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(manager.address)
        sock.sendall(frame)
        sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(1 << 10):
                pass
    assert manager._number_of_objects() == 0


def test_who_says_nothing_holds_nobody_up(manager):
    silent = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for sock in silent:
        sock.connect(manager.address)
        # The beginning of a message.
        sock.sendall(b"\0\0")
    with connection.Client(manager.address, authkey=bytes(manager._authkey)) as conn:
        assert managers.dispatch(conn, None, "number_of_objects") == 0
    for sock in silent:
        sock.close()


def test_requests_that_make_no_sense_are_answered(manager):
    with connection.Client(manager.address, authkey=bytes(manager._authkey)) as conn:
        for request in (17, ("1", "append"), (None, "_serve", (), {}), (None, "__init__", (), {}), ("99", "append", (), {})):
            conn.send(request)
            assert conn.recv()[0] == "#TRACEBACK"
        conn.send_bytes(b"no pickle")
        assert conn.recv()[0] == "#TRACEBACK"
        assert managers.dispatch(conn, None, "number_of_objects") == 0


# Forks, threads, nests.


def test_a_fork_with_live_proxies_is_a_client_of_its_own(manager, ctx):
    numbers, lock = manager.list(), manager.Lock()
    numbers.append(0)
    children = [start(ctx, add_to, numbers, [number]) for number in range(1, 5)]
    for child in children:
        child.join(PATIENCE)
        assert child.exitcode == 0
    assert sorted(numbers) == list(range(5))
    del lock, child, children
    gc.collect()
    assert manager._number_of_objects() == 1


def test_a_bare_fork_does_not_disturb_its_parent(manager):
    numbers = manager.list([0])
    numbers.append(1)
    if (pid := os.fork()) == 0:
        try:
            numbers.append(2)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert list(numbers) == [0, 1, 2]


def test_idle_clients_have_no_threads(manager):
    numbers, done = manager.list(), threading.Event()

    def client(barrier):
        numbers.append(1)
        barrier.wait(PATIENCE)
        done.wait(PATIENCE)

    barrier = threading.Barrier(41)
    threads = [threading.Thread(target=client, args=(barrier,)) for _ in range(40)]
    for thread in threads:
        thread.start()
    barrier.wait(PATIENCE)
    try:
        eventually(lambda: len(os.listdir(f"/proc/{manager._process.pid}/task")) <= 20)
    finally:
        done.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert len(numbers) == 40


def test_many_blocking_calls_at_once(manager):
    event = manager.Event()
    waits = [in_a_thread(event.wait) for _ in range(30)]
    event.set()
    assert all(result.get(timeout=PATIENCE) for result in waits)


def test_a_nested_proxy_keeps_its_object(manager):
    outer = manager.list([manager.dict(), manager.list([1])])
    inner = outer[1]
    del outer[1]
    inner.append(2)
    assert list(inner) == [1, 2]
    outer[0]["self"] = outer
    assert len(outer[0]["self"]) == 1
    del outer, inner
    gc.collect()
    assert manager._number_of_objects() == 0


def test_nested_proxies_of_a_manager_with_a_key_of_its_own(ctx):
    with managers.SyncManager(authkey=KEY, ctx=ctx) as manager:
        outer = manager.list([manager.list([1])])
        assert list(outer[0]) == [1]


class Affine:
    """Belongs to the thread that called it first."""

    def __init__(self):
        self.lock = threading.RLock()

    def acquire(self):
        return self.lock.acquire()

    def release(self):
        self.lock.release()


class Owner(managers.BaseManager):
    pass


Owner.register("Affine", Affine)


def test_objects_that_belong_to_threads_are_called_by_one(ctx):
    with Owner(ctx=ctx) as manager:
        affine = manager.Affine()
        for _ in range(20):
            affine.acquire()
        for _ in range(20):
            affine.release()


class Late:
    """Is made when there is a file."""

    def __init__(self, path):
        Path(path + "-begun").touch()
        eventually(Path(path).exists)


class Slow(managers.SyncManager):
    pass


Slow.register("Late", Late)


def test_an_object_that_is_made_slowly_holds_nobody_up(ctx, tmp_path):
    path = str(tmp_path / "now")
    with Slow(ctx=ctx) as manager:
        shared = manager.list([manager.list([1])])
        before = manager._number_of_objects()
        late = in_a_thread(manager.Late, path)
        eventually(Path(path + "-begun").exists)
        # The other thread's object is made only after all of this: new objects, old ones that arrive, their ends.
        made = manager.dict(a=1)
        assert (made["a"], list(shared[0])) == (1, [1])
        keep = [shared[0] for _ in range(5)]
        assert [list(each) for each in keep] == [[1]] * 5
        Path(path).touch()
        slow = late.get(timeout=PATIENCE)
        # The inner list, too: only the outer one referred to it before.
        assert manager._number_of_objects() == before + 3
        del made, keep, slow
        eventually(lambda: manager._number_of_objects() == before)
        assert list(shared[0]) == [1]


def test_errors_bring_the_traceback_of_the_server(ctx):
    with Owner(ctx=ctx) as manager, pytest.raises(RuntimeError) as caught:
        manager.Affine().release()
    assert "in release" in str(caught.value.__cause__)
    # The error itself is shown as it was raised, how often ever that was.
    assert traceback.format_exception_only(caught.value) == ["RuntimeError: cannot release un-acquired lock\n"]


def test_a_pool_in_a_manager(manager):
    with manager.Pool(2) as pool:
        assert pool.map(abs, [-1, 2]) == [1, 2]
        assert pool.apply_async(abs, (-3,)).get(PATIENCE) == 3
        assert sorted(pool.imap_unordered(abs, [-4, -5])) == [4, 5]


def test_a_set(manager):
    numbers = manager.set([1, 2])
    numbers |= {3}
    assert sorted(numbers) == [1, 2, 3]
    assert numbers & {3, 4} == {3}


# The standard module at the other end.


def test_a_client_of_the_standard_module():
    server = managers.SyncManager(("127.0.0.1", 0), KEY)
    with server:
        with Program("peer", server.address[1]) as peer:
            code, out, errors = peer.end()
    assert (code, out.splitlines()) == (0, ["6 ['numbers'] 6", "pop index out of range", "0"]), errors


def test_a_server_of_the_standard_module():
    with Program("peer", "serve") as peer:
        manager = managers.SyncManager(("127.0.0.1", int(peer.line())), KEY)
        manager.connect()
        numbers = manager.list([1, 2])
        numbers.append(3)
        assert list(numbers) == [1, 2, 3]
        assert manager._number_of_objects() == 1
        peer.process.terminate()


# Shared memory.


def test_blocks_go_with_their_manager(ctx):
    with managers.SharedMemoryManager(ctx=ctx) as manager:
        block, numbers = manager.SharedMemory(64), manager.ShareableList([1, 2])
        block.buf[0] = 7
        names = block.name, numbers.shm.name
        assert all(os.path.exists(f"/dev/shm/{name}") for name in names)
    assert not any(os.path.exists(f"/dev/shm/{name}") for name in names)


def test_what_a_proxy_raises_does_not_keep_itself(manager):
    assert dies_unaided(manager.Queue().get_nowait, queue.Empty)
