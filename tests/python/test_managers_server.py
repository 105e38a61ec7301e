"""A manager's server and many clients, slow and hostile ones; and calls that follow each other so fast that nobody sleeps in between."""

import array
import contextlib
import gc
import hmac
import os
import resource
import signal
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from broody import connection, managers
from conftest import PATIENCE, eventually

KEY = b"a key"
MANY = 1000
MIB = 1 << 20
# Enough calls that both sides look into the mailbox, where there are CPUs for that.
FAST = 2000


@pytest.fixture
def manager(ctx):
    with managers.SyncManager(authkey=KEY, ctx=ctx) as manager:
        yield manager


@pytest.fixture
def many_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 3 * MANY:
        pytest.skip(f"no more than {hard} descriptors are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (3 * MANY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def memory(pid):
    """What a process has in memory of its own, in bytes."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_")) * 1024


def threads(pid):
    return len(os.listdir(f"/proc/{pid}/task"))


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def client(manager):
    return connection.Client(manager.address, authkey=KEY)


def connect(address):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(address)
    return sock


def raw(manager):
    """A client that was let in, as a bare socket."""
    conn = client(manager)
    sock = socket.socket(fileno=os.dup(conn.fileno()))
    conn.close()
    return sock


# Many.


def test_a_thousand_idle_proxies_cost_no_thread_and_little_memory(manager):
    pid = manager._process.pid
    numbers = manager.list()
    for _ in range(100):
        numbers.append(1)
    before, our_threads = (memory(pid), memory(os.getpid())), threads(os.getpid())
    proxies = [manager.dict() for _ in range(MANY)]
    for proxy in proxies:
        proxy["a"] = 1
    grown = memory(pid) - before[0], memory(os.getpid()) - before[1]
    assert sum(grown) < 10 * MIB, grown
    eventually(lambda: threads(pid) <= 10, "the end of threads")
    assert threads(os.getpid()) == our_threads
    del proxies, proxy
    gc.collect()
    assert manager._number_of_objects() == 1


def test_a_thousand_connections_cost_no_thread_and_little_memory(many_descriptors, ctx):
    with managers.SyncManager(authkey=KEY, ctx=ctx) as manager:
        pid, numbers = manager._process.pid, manager.list()
        ident = numbers._id
        before, open_before = memory(pid), descriptors(pid)
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(client(manager)) for _ in range(MANY)]
            for conn in clients:
                managers.dispatch(conn, ident, "append", (1,))
            assert len(numbers) == MANY
            assert memory(pid) - before < 10 * MIB
            eventually(lambda: threads(pid) <= 10, "the end of threads")
        eventually(lambda: descriptors(pid) < open_before + 20, "the end of the connections")


# Slow and hostile.


def test_who_sends_half_a_request_holds_nobody_up(manager):
    pid, numbers = manager._process.pid, manager.list()
    before = descriptors(pid)
    slow = [raw(manager) for _ in range(50)]
    for number, sock in enumerate(slow):
        # A part of the length, or of what follows.
        sock.sendall(struct.pack("!i", 1000)[: number % 4 + 1] + b"\x80" * (number // 4 if number % 4 == 3 else 0))
    for number in range(100):
        numbers.append(number)
    assert len(numbers) == 100
    eventually(lambda: threads(pid) <= 10, "the end of threads")
    for sock in slow:
        sock.close()
    eventually(lambda: descriptors(pid) < before + 20, "the end of the connections")


def test_a_request_in_small_pieces_is_answered(manager):
    numbers = manager.list()
    with raw(manager) as sock:
        pickled = managers.ForkingPickler.dumps((numbers._id, "append", (7,), {}))
        for byte in struct.pack("!i", len(pickled)) + bytes(pickled):
            sock.sendall(bytes([byte]))
        assert sock.recv(4)
    assert list(numbers) == [7]


@pytest.mark.parametrize("is_known", [False, True])
def test_a_giant_length_takes_no_memory(manager, is_known):
    pid = manager._process.pid
    manager._number_of_objects()
    before = memory(pid)
    giants = [struct.pack("!i", (1 << 31) - 1), struct.pack("!iQ", -1, 1 << 62), struct.pack("!iQ", -1, 1 << 40)]
    with contextlib.ExitStack() as stack:
        for giant in giants * 3:
            sock = stack.enter_context(raw(manager) if is_known else connect(manager.address))
            if not is_known:
                # Its own challenge.
                sock.recv(1 << 10)
            with contextlib.suppress(ConnectionError):
                sock.sendall(giant + b"x" * 1000)
            if not is_known:
                with contextlib.suppress(ConnectionError):
                    assert sock.recv(1) == b""
        assert manager._number_of_objects() == 0
        # One step of memory each at most, of which no page is touched.
        assert memory(pid) - before < 4 * MIB


def test_who_does_not_read_holds_nobody_up(manager):
    pid, long = manager._process.pid, manager.list(["x" * MIB])
    lazy = [client(manager) for _ in range(30)]
    for conn in lazy:
        # More than a socket takes.
        conn.send((long._id, "__getitem__", (0,), {}))
    assert len(long) == 1
    eventually(lambda: threads(pid) <= 10, "the end of threads")
    # They get it all the same.
    for conn in lazy[:5]:
        kind, result = conn.recv()
        assert (kind, len(result)) == ("#RETURN", MIB)
    for conn in lazy:
        conn.close()


class Long:
    """Belongs to the thread that called it first, as far as the server knows."""

    def give(self):
        return "x" * (4 * MIB)


class Owner(managers.BaseManager):
    pass


Owner.register("Long", Long)


def test_a_long_answer_of_an_object_that_belongs_to_a_thread_comes(ctx):
    with Owner(ctx=ctx) as manager:
        long = manager.Long()
        for _ in range(3):
            assert len(long.give()) == 4 * MIB


def test_an_item_that_was_not_read_is_put_back(manager):
    items = manager.Queue()
    items.put("y" * (4 * MIB))
    with client(manager) as conn:
        conn.send((items._id, "get", (), {}))
        eventually(items.empty)
        # It has begun to come, and is longer than what a socket takes.
        assert conn.poll(PATIENCE)
    assert len(items.get(timeout=PATIENCE)) == 4 * MIB


def frame(message):
    return struct.pack("!i", len(message)) + message


def received(sock):
    """The next message; None at the end."""
    with contextlib.suppress(ConnectionError):
        if header := sock.recv(4, socket.MSG_WAITALL):
            return sock.recv(struct.unpack("!i", header)[0], socket.MSG_WAITALL)
    return None


def digest(name, message, key):
    return b"{%s}%s" % (name.encode(), hmac.new(key, message, name).digest())


# What a client says that does not know the key, to a challenge.
PROOFS = {
    "nothing": lambda challenge: b"",
    "random": lambda challenge: b"{sha256}" + os.urandom(32),
    "old": lambda challenge: os.urandom(16),
    "an empty digest": lambda challenge: b"{sha256}",
    "half of the digest": lambda challenge: digest("sha256", challenge, KEY)[:-16],
    "the challenge": lambda challenge: challenge,
    "an empty key": lambda challenge: digest("sha256", challenge, b""),
    "another key": lambda challenge: digest("md5", challenge, b"another key"),
    "another challenge": lambda challenge: digest("sha256", challenge[:-1], KEY),
    "no digest that is allowed": lambda challenge: b"{sha1}" + hmac.new(KEY, challenge, "sha1").digest(),
    "no digest at all": lambda challenge: b"{}" + os.urandom(32),
    "a welcome": lambda challenge: b"#WELCOME#",
    "a challenge of its own": lambda challenge: b"#CHALLENGE#" + challenge,
}


@pytest.mark.parametrize("proof", PROOFS)
def test_who_does_not_prove_the_key_is_not_served(proof):
    """A client that does not mind whether the server knows the key."""
    with managers.SyncManager(authkey=KEY) as manager:
        numbers = manager.list([1])
        request = frame(managers.ForkingPickler.dumps((numbers._id, "append", (2,), {})))
        with connect(manager.address) as sock:
            sock.settimeout(PATIENCE)
            challenge = received(sock).removeprefix(b"#CHALLENGE#")
            with contextlib.suppress(ConnectionError):
                sock.sendall(frame(PROOFS[proof](challenge)))
                # Whatever it says: it goes on as if it had been let in.
                sock.sendall(frame(b"#CHALLENGE#" + b"x" * 40) + frame(b"#WELCOME#") + request)
            assert received(sock) in (b"#FAILURE#", None)
            assert received(sock) is None
        # As does one that proves it, and then does not let the server do so.
        with connect(manager.address) as sock:
            sock.settimeout(PATIENCE)
            challenge = received(sock).removeprefix(b"#CHALLENGE#")
            sock.sendall(frame(digest("sha256", challenge, KEY)))
            assert received(sock) == b"#WELCOME#"
            with contextlib.suppress(ConnectionError):
                sock.sendall(request)
            assert received(sock) is None
        assert list(numbers) == [1]


def test_strangers_who_say_nothing_are_sent_away(ctx):
    before, connection.CONNECTION_TIMEOUT = connection.CONNECTION_TIMEOUT, 0.2
    try:
        server = managers.SyncManager(authkey=KEY).get_server()
        thread = threading.Thread(target=lambda: pytest.raises(SystemExit, server.serve_forever))
        thread.start()
        with connect(server.address) as silent:
            silent.settimeout(PATIENCE)
            assert silent.recv(1 << 10).startswith(b"\0\0")
            assert silent.recv(1 << 10) == b""
        server.stop_event.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()
    finally:
        connection.CONNECTION_TIMEOUT = before


def test_a_damaged_packed_call_is_answered(manager):
    with client(manager) as conn:
        for message in (b"\x01", b"\x01" * 9, b"\x01" + b"\0" * 8 + b"\xff", b"\x01" + b"\0" * 8 + b"\x01x\x01\x05\xff\xff\xff\xff"):
            conn.send_bytes(message)
            assert conn.recv()[0] == "#TRACEBACK"
        assert managers.dispatch(conn, None, "number_of_objects") == 0


# Fast calls.


def count(numbers, conn, times):
    conn.send("begun")
    while times:
        numbers["n"] = numbers.get("n", 0) + 1
        times -= 1
    conn.send(numbers["n"])


def start(ctx, target, *args):
    child = ctx.Process(target=target, args=args, daemon=True)
    child.start()
    return child


@pytest.mark.parametrize(
    "value", [0, -(1 << 63), 1 << 63, 1.5, "text", "\ud800", "l" * 5000, b"bytes", b"l" * 5000, None, True, (1, [2]), {"a": array.array("i", [1])}]
)
def test_every_kind_of_value_comes_back(manager, value):
    values = manager.dict()
    for _ in range(40):
        values["value"] = value
        got = values["value"]
        assert got == value and type(got) is type(value)


def test_arguments_that_are_one_object_stay_one(manager):
    lists, one = manager.list(), []
    for _ in range(40):
        lists.append((one, one))
    first, second = lists[39]
    assert first is second


def test_a_client_killed_between_fast_calls_harms_nobody(ctx, manager):
    numbers = manager.dict()
    for round in range(5):
        ours, theirs = ctx.Pipe()
        child = start(ctx, count, numbers, theirs, -1)
        assert ours.recv() == "begun"
        before = numbers.get("n", 0)
        eventually(lambda: numbers.get("n", 0) > before + 50)
        time.sleep(0.002 * round)
        child.kill()
        child.join(PATIENCE)
    for number in range(FAST):
        numbers["m"] = number
    assert numbers["m"] == FAST - 1


def test_a_manager_killed_between_fast_calls_is_an_error(ctx):
    manager = managers.SyncManager(ctx=ctx)
    manager.start()
    numbers = manager.dict()
    timer = threading.Timer(0.2, os.kill, (manager._process.pid, signal.SIGKILL))
    timer.start()
    begun = time.monotonic()
    with pytest.raises((EOFError, OSError)):
        while time.monotonic() - begun < PATIENCE:
            numbers["n"] = 1
    timer.join()
    manager.shutdown()


def test_a_fork_in_the_middle_of_fast_calls_has_its_own(ctx, manager):
    numbers = manager.dict()
    for number in range(FAST):
        numbers["p"] = number
    ours, theirs = ctx.Pipe()
    child = start(ctx, count, numbers, theirs, FAST)
    for number in range(FAST):
        numbers["p"] = number
        assert numbers["p"] == number
    assert ours.recv() == "begun"
    assert ours.recv() == FAST
    child.join(PATIENCE)


def test_a_fork_keeps_none_of_its_parents_connections(manager):
    numbers, barrier, done = manager.list(), threading.Barrier(5), threading.Event()

    def use():
        numbers.append(1)
        barrier.wait(PATIENCE)
        done.wait(PATIENCE)

    users = [threading.Thread(target=use) for _ in range(4)]
    for user in users:
        user.start()
    numbers.append(1)
    barrier.wait(PATIENCE)

    def peers():
        paths = Path("/proc/self/fd").iterdir()
        return {os.readlink(path) for path in paths if path.exists() and os.readlink(path).startswith("socket:")}

    theirs = peers()
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            # Those of the supervisor are left.
            os.write(writer, b"%d" % len(peers() & theirs))
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    kept = int(os.read(reader, 10))
    os.close(reader)
    done.set()
    for user in users:
        user.join(PATIENCE)
    assert len(theirs) - kept >= 5, (len(theirs), kept)


def test_threads_call_fast_without_mixing_their_answers(manager):
    numbers = manager.dict()
    wrong = []

    def use(name):
        for number in range(FAST // 4):
            numbers[name] = number
            if (got := numbers[name]) != number:
                wrong.append((name, number, got))

    users = [threading.Thread(target=use, args=(name,)) for name in "abcd"]
    for user in users:
        user.start()
    for user in users:
        user.join(PATIENCE)
    assert not wrong
    assert sorted(numbers.values()) == [FAST // 4 - 1] * 4


def test_a_signal_in_the_middle_of_fast_calls_may_call_too(manager):
    numbers, seen = manager.dict(n=0), []

    def handler(*_):
        seen.append(numbers["n"])

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
        number = 0
        while len(seen) < 20:
            number += 1
            numbers["n"] = number
            assert numbers["n"] == number
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert seen == sorted(seen)
