"""Managers at the limits of a system, stopped ones, strangers who keep everybody waiting, and servers that come back."""

import contextlib
import gc
import os
import re
import resource
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from broody import connection, managers
from conftest import PATIENCE, eventually, is_over, status

KEY = b"a key"
GONE = (EOFError, OSError)
MIB = 1 << 20
# More than prove their keys at the same time.
MANY = 600


@pytest.fixture
def manager(ctx):
    with managers.SyncManager(authkey=KEY, ctx=ctx) as manager:
        yield manager


def address_space(pid):
    return int(re.search(r"VmSize:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) << 10


def threads(pid):
    return len(os.listdir(f"/proc/{pid}/task"))


def limit_memory(pid, more):
    """Lets a process have so many bytes more than it has."""
    resource.prlimit(pid, resource.RLIMIT_AS, (address_space(pid) + more, resource.RLIM_INFINITY))


def kill(manager):
    os.kill(manager._process.pid, signal.SIGKILL)
    manager._process.join(PATIENCE)


# Limits of the server.


def test_a_request_for_which_the_server_has_no_memory_fails_alone(manager):
    numbers = manager.list([1])
    limit_memory(manager._process.pid, 64 * MIB)
    for _ in range(2):
        with pytest.raises(MemoryError):
            numbers.append(b"x" * (200 * MIB))
    numbers.append(2)
    assert list(numbers) == [1, 2]


def test_an_answer_for_which_the_server_has_no_memory_fails_alone(manager):
    long = manager.list([bytes([number]) * (32 * MIB) for number in range(3)])
    limit_memory(manager._process.pid, 40 * MIB)
    with pytest.raises(managers.RemoteError, match="MemoryError"):
        long._getvalue()
    long.clear()
    long.append(1)
    assert list(long) == [1]


def test_a_server_that_can_start_no_thread_refuses_what_may_wait(manager):
    numbers, event, items = manager.list(), manager.Event(), manager.Queue()
    pid = manager._process.pid
    # Less than a thread's stack.
    limit_memory(pid, 2 * MIB)
    ends = []

    def wait():
        try:
            ends.append(event.wait(PATIENCE))
        except managers.RemoteError as error:
            ends.append(str(error))

    waiting = [threading.Thread(target=wait) for _ in range(6)]
    for thread in waiting:
        thread.start()
    eventually(lambda: ends, "the first refusal")
    # Others are served all the same, and those that wait can be woken.
    for number in range(20):
        numbers.append(number)
    items_left = items.qsize()
    event.set()
    for thread in waiting:
        thread.join(PATIENCE)
    assert len(numbers) == 20 and items_left == 0
    refused = [end for end in ends if end is not True]
    assert refused and all("cannot start another thread" in end for end in refused)
    assert True in ends
    # As soon as there is memory, nothing of it is left.
    resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    items.put(1)
    assert items.get(timeout=PATIENCE) == 1 and threads(pid) > 1


def test_a_server_without_descriptors_serves_those_that_it_has(manager):
    numbers, pid = manager.list(), manager._process.pid
    numbers.append(1)
    before = len(os.listdir(f"/proc/{pid}/fd"))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (before + 5, hard))
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(manager.address)
        # Also beyond the calls after which a mailbox is asked for.
        for _ in range(50):
            numbers.append(1)
        assert len(numbers) == 51
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
    with connection.Client(manager.address, authkey=KEY) as conn:
        assert managers.dispatch(conn, None, "number_of_objects") == 1
    eventually(lambda: len(os.listdir(f"/proc/{pid}/fd")) < before + 5, "the end of the connections")


def test_a_client_without_descriptors_goes_on_with_those_that_it_has(manager):
    numbers = manager.list()
    numbers.append(1)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(map(int, os.listdir("/proc/self/fd"))) + 1
    taken = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        # Beyond the calls after which a mailbox is asked for, whose descriptor does not fit in here.
        for _ in range(50):
            numbers.append(1)
        assert len(numbers) == 51
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in taken:
            os.close(fd)
    assert taken and len(numbers) == 51


# Stopped.


def test_a_manager_that_is_stopped_can_be_ended(ctx, monkeypatch):
    monkeypatch.setattr(managers, "_PATIENCE", 0.3)
    manager = managers.SyncManager(ctx=ctx, shutdown_timeout=0.3)
    manager.start()
    pid = manager._process.pid
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: status(pid)[0] == "T")
    ended = threading.Thread(target=manager.shutdown, daemon=True)
    ended.start()
    ended.join(PATIENCE)
    if ended.is_alive():
        os.kill(pid, signal.SIGKILL)
        pytest.fail("it waits for ever")
    assert is_over(pid)


def test_who_waits_for_a_stopped_manager_hears_of_its_death(ctx):
    manager = managers.SyncManager(ctx=ctx)
    manager.start()
    event, numbers = manager.Event(), manager.list()
    pid, heard = manager._process.pid, []
    begun = threading.Barrier(5)

    def wait(method):
        begun.wait(PATIENCE)
        try:
            heard.append(method())
        except GONE as error:
            heard.append(error)

    waiting = [threading.Thread(target=wait, args=(method,)) for method in (event.wait, event.is_set, numbers.copy, manager.dict)]
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: status(pid)[0] == "T")
    for thread in waiting:
        thread.start()
    begun.wait(PATIENCE)
    assert not heard
    os.kill(pid, signal.SIGKILL)
    for thread in waiting:
        thread.join(PATIENCE)
    assert len(heard) == 4 and all(isinstance(error, GONE) for error in heard), heard
    manager.shutdown()


# Strangers.


def test_strangers_who_say_nothing_keep_nobody_out(manager):
    pid, numbers = manager._process.pid, manager.list([1])
    before = len(os.listdir(f"/proc/{pid}/fd"))
    with contextlib.ExitStack() as stack:
        for _ in range(MANY):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(manager.address)
        began = time.monotonic()
        with connection.Client(manager.address, authkey=KEY) as conn:
            assert managers.dispatch(conn, None, "number_of_objects") == 1
        assert time.monotonic() - began < connection.CONNECTION_TIMEOUT / 2
        # Nor do they take more and more descriptors.
        assert len(os.listdir(f"/proc/{pid}/fd")) < before + 300
    assert list(numbers) == [1]
    eventually(lambda: len(os.listdir(f"/proc/{pid}/fd")) < before + 5, "the end of the connections")


# Servers that come back.


@pytest.mark.parametrize("family", ["AF_INET", "AF_UNIX"])
def test_a_server_that_comes_back_does_not_take_old_proxies_for_its_own(ctx, family, tmp_path):
    address = ("127.0.0.1", 0) if family == "AF_INET" else str(tmp_path / "socket")
    first = managers.SyncManager(address, KEY, ctx=ctx)
    first.start()
    old = first.list(["old"])
    old.append(1)
    kill(first)
    # Also where the first one was killed, and has left its socket.
    with managers.SyncManager(first.address, KEY, ctx=ctx) as second:
        new = second.list(["new"])
        for _ in range(3):
            with pytest.raises((managers.RemoteError, *GONE)):
                old.append("of the old one")
        del old
        gc.collect()
        assert list(new) == ["new"] and second._number_of_objects() == 1
    first.shutdown()


def test_a_socket_that_a_killed_server_has_left_goes_with_its_manager(ctx, tmp_path):
    path = tmp_path / "socket"
    manager = managers.SyncManager(str(path), KEY, ctx=ctx)
    manager.start()
    kill(manager)
    assert path.is_socket()
    manager.shutdown()
    assert not path.exists()


def test_an_address_where_somebody_listens_is_taken(ctx, tmp_path):
    path = tmp_path / "socket"
    with managers.SyncManager(str(path), KEY, ctx=ctx) as manager:
        with pytest.raises(OSError, match="in use"):
            managers.SyncManager(str(path), KEY, ctx=ctx).start()
        # A file is nobody's socket.
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match="in use"):
            managers.SyncManager(str(tmp_path / "file"), KEY, ctx=ctx).start()
        assert (tmp_path / "file").exists()
        assert list(manager.list([1])) == [1]


# Forks that live longer.


def test_a_fork_that_outlives_a_killed_client_keeps_nothing_of_it(manager):
    reader, writer = os.pipe()
    if (client := os.fork()) == 0:
        other = managers.SyncManager(manager.address, KEY)
        other.connect()
        held, lock = other.list([other.dict()]), other.Lock()
        lock.acquire()
        if (child := os.fork()) == 0:
            # It has nothing to do with the manager.
            time.sleep(PATIENCE)
            os._exit(0)
        os.write(writer, b"%d %d" % (child, len(held)))
        time.sleep(PATIENCE)
        os._exit(0)
    child = int(os.read(reader, 100).split()[0])
    os.close(reader)
    os.close(writer)
    try:
        assert manager._number_of_objects() == 2
        os.kill(client, signal.SIGKILL)
        os.waitpid(client, 0)
        eventually(lambda: manager._number_of_objects() == 0, "the end of the references")
        assert not is_over(child)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    eventually(lambda: is_over(child))
