"""Connections whose other side dies, is silent, lies, or is the standard module."""

import array
import hmac
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import threading

import pytest
from broody import AuthenticationError, BufferTooShort, connection, reduction, resource_sharer
from conftest import PATIENCE, eventually

KEY = b"a key"
LONG = 4 << 20


class Interrupted(Exception):
    pass


@pytest.fixture
def interrupt():
    """Interrupts this process's main thread in a moment, by an exception."""

    def handler(*_):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, handler)
    yield lambda: signal.setitimer(signal.ITIMER_REAL, 0.1)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def sleep_with(conn, *_):
    conn.send("here")
    signal.pause()


def begin_a_message(conn):
    os.write(conn.fileno(), struct.pack("!i", LONG) + b"x" * 1000)
    signal.pause()


def start(ctx, target, *args):
    child = ctx.Process(target=target, args=args, daemon=True)
    child.start()
    return child


# The other side is killed.


def test_the_end_of_who_was_killed_is_an_end_of_file(ctx):
    ours, theirs = connection.Pipe()
    child = start(ctx, sleep_with, theirs)
    theirs.close()
    assert ours.recv() == "here"
    child.kill()
    with pytest.raises((EOFError, ConnectionResetError)):
        ours.recv()
    with pytest.raises(OSError):
        for _ in range(2):
            ours.send_bytes(b"x" * LONG)
    child.join()


def test_who_is_killed_in_the_middle_of_a_message_leaves_an_error(ctx):
    ours, theirs = connection.Pipe()
    child = start(ctx, begin_a_message, theirs)
    theirs.close()
    assert ours.poll(PATIENCE)
    threading.Timer(0.1, child.kill).start()
    with pytest.raises(OSError, match="during message"):
        ours.recv_bytes()
    child.join()


def test_a_receiver_that_is_killed_wakes_who_sends_to_it(ctx):
    reader, writer = connection.Pipe(duplex=False)
    ready, told = connection.Pipe()
    child = start(ctx, sleep_with, told, reader)
    reader.close()
    ready.recv()
    threading.Timer(0.1, child.kill).start()
    with pytest.raises(BrokenPipeError):
        writer.send_bytes(b"x" * LONG)
    child.join()


def test_of_several_the_dead_one_is_told(ctx):
    pipes = [connection.Pipe() for _ in range(3)]
    children = [start(ctx, sleep_with, theirs) for _, theirs in pipes]
    for ours, theirs in pipes:
        theirs.close()
        assert ours.recv() == "here"
    sentinels = [child.sentinel for child in children]
    everything = sentinels + [ours for ours, _ in pipes]
    assert connection.wait(everything, 0) == []
    children[1].kill()
    # Its pipe is at its end only where no younger child, a fork, has a copy of that.
    eventually(lambda: sentinels[1] in connection.wait(everything, 1))
    for child in children:
        child.kill()
        child.join()


# Somebody interrupts.


def test_an_interrupted_receive_goes_on_with_the_next(interrupt):
    ours, theirs = connection.Pipe()
    interrupt()
    with pytest.raises(Interrupted):
        ours.recv_bytes()
    message = b"abcdefgh"
    frame = struct.pack("!i", len(message)) + message
    for part in range(1, len(frame)):
        os.write(theirs.fileno(), frame[:part])
        interrupt()
        with pytest.raises(Interrupted):
            ours.recv_bytes()
        os.write(theirs.fileno(), frame[part:])
        assert ours.recv_bytes() == message
    # Into a buffer of the caller's, which is not kept.
    os.write(theirs.fileno(), frame[:7])
    interrupt()
    with pytest.raises(Interrupted):
        ours.recv_bytes_into(bytearray(20))
    os.write(theirs.fileno(), frame[7:])
    buffer = bytearray(9)
    assert (ours.recv_bytes_into(buffer, 1), buffer) == (8, b"\0" + message)


@pytest.mark.parametrize("duplex", [True, False])
def test_an_interrupted_send_goes_on_with_the_next(interrupt, duplex):
    reader, writer = connection.Pipe(duplex)
    interrupt()
    with pytest.raises(Interrupted):
        writer.send_bytes(b"x" * LONG)
    got = []
    thread = threading.Thread(target=lambda: got.extend(reader.recv_bytes() for _ in range(2)))
    thread.start()
    writer.send_bytes(b"next")
    thread.join(PATIENCE)
    assert [len(got[0]), got[1]] == [LONG, b"next"]


def test_who_waits_does_not_keep_other_threads_from_running():
    ours, theirs = connection.Pipe()
    thread = threading.Thread(target=ours.recv_bytes)
    thread.start()
    theirs.send_bytes(b"x" * LONG)
    thread.join(PATIENCE)
    assert not thread.is_alive()


# Frames.


def test_frames_are_those_of_the_standard_module():
    ours, theirs = connection.Pipe()
    for message in (b"", b"x", b"x" * 70_000):
        ours.send_bytes(message)
        raw = b""
        while len(raw) < 4 + len(message):
            raw += os.read(theirs.fileno(), 1 << 20)
        assert raw == struct.pack("!i", len(message)) + message
    # Long messages have a longer header; nothing says that only long ones have.
    os.write(theirs.fileno(), struct.pack("!iQ", -1, 3) + b"abc")
    assert ours.recv_bytes() == b"abc"


@pytest.mark.parametrize("header", [struct.pack("!i", -2), struct.pack("!iQ", -1, 1 << 63), struct.pack("!iQ", -1, (1 << 64) - 1)])
def test_an_impossible_length_is_an_error_and_not_the_end_of_memory(header):
    ours, theirs = connection.Pipe()
    os.write(theirs.fileno(), header)
    with pytest.raises((OSError, MemoryError)):
        ours.recv_bytes()
    # Where the next message begins is not known.
    assert not ours.readable and ours.writable


def test_too_long_a_message_ends_the_receiving():
    reader, writer = connection.Pipe(duplex=False)
    writer.send_bytes(b"12345")
    with pytest.raises(OSError, match="bad message length"):
        reader.recv_bytes(4)
    assert reader.closed


def test_a_buffer_that_is_too_short_loses_nothing():
    ours, theirs = connection.Pipe()
    theirs.send_bytes(array.array("i", range(10)))
    with pytest.raises(BufferTooShort) as error:
        ours.recv_bytes_into(bytearray(39))
    assert error.value.args[0] == array.array("i", range(10)).tobytes()
    theirs.send_bytes(b"next")
    assert ours.recv_bytes() == b"next"


def test_nothing_is_read_ahead():
    ours, theirs = connection.Pipe()
    theirs.send_bytes(b"a")
    os.write(theirs.fileno(), b"raw")
    reader, writer = os.pipe()
    assert ours.recv_bytes() == b"a"
    assert os.read(ours.fileno(), 3) == b"raw"
    thread = threading.Thread(target=reduction.send_handle, args=(theirs, writer, os.getpid()))
    thread.start()
    with open(reduction.recv_handle(ours), "wb") as file:
        file.write(b"x")
    thread.join(PATIENCE)
    assert os.read(reader, 1) == b"x"
    os.close(reader), os.close(writer)


# Who connects may be anybody.


def knock(listener, *parts):
    """A client that says these bytes, and no more."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(listener.address)
    for part in parts:
        client.sendall(part)
    return client


@pytest.mark.parametrize(
    "said",
    [
        (struct.pack("!iQ", -1, 1 << 40),),
        (struct.pack("!i", 257) + b"x" * 257,),
        (struct.pack("!i", 0x7FFFFFFF), b"x" * 1000),
        (struct.pack("!i", 20) + b"x" * 20,),
        (struct.pack("!i", 16) + b"x" * 16,),
        (struct.pack("!i", 40) + b"{sha256}" + b"x" * 32,),
        (struct.pack("!i", 8) + b"{sha257}",),
        (b"\0\0",),
        (),
    ],
)
def test_a_client_without_the_key_is_refused_and_the_next_one_is_served(said):
    with connection.Listener(authkey=KEY) as listener:
        stranger = knock(listener, *said)
        stranger.shutdown(socket.SHUT_WR)
        with pytest.raises((AuthenticationError, EOFError, OSError)):
            listener.accept()
        stranger.close()
        thread = threading.Thread(target=lambda: connection.Client(listener.address, authkey=KEY).send("it's me"))
        thread.start()
        with listener.accept() as served:
            assert served.recv() == "it's me"
        thread.join(PATIENCE)


def test_a_silent_client_does_not_block_the_others_for_ever(monkeypatch):
    monkeypatch.setattr(connection, "CONNECTION_TIMEOUT", 0.1)
    with connection.Listener(authkey=KEY) as listener, knock(listener):
        with pytest.raises(AuthenticationError, match="says nothing"):
            listener.accept()


def test_a_client_waits_for_as_long_as_it_takes(monkeypatch):
    monkeypatch.setattr(connection, "CONNECTION_TIMEOUT", 0.1)
    with connection.Listener(authkey=KEY) as listener:
        clients = []
        thread = threading.Thread(target=lambda: clients.append(connection.Client(listener.address, authkey=KEY)))
        thread.start()
        thread.join(0.5)
        # Not accepted yet, and not impatient.
        assert thread.is_alive()
        monkeypatch.setattr(connection, "CONNECTION_TIMEOUT", PATIENCE)
        listener.accept().close()
        thread.join(PATIENCE)
        assert clients


def test_a_listener_without_the_key_is_refused():
    with connection.Listener(authkey=b"another key") as listener:
        errors = []

        def accept():
            try:
                listener.accept()
            except AuthenticationError as error:
                errors.append(error)

        thread = threading.Thread(target=accept)
        thread.start()
        with pytest.raises(AuthenticationError):
            connection.Client(listener.address, authkey=KEY)
        thread.join(PATIENCE)
        assert errors


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), 9)", "os._exit(0)", "listener.close()", "1 / 0"])
def test_a_listener_leaves_no_file_behind(how):
    code = f"""
import os
from broody.connection import Client, Listener
listener = Listener()
Client(listener.address).close()
print(listener.address, oct(os.stat(listener.address).st_mode)[-3:], flush=True)
{how}
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as program:
        path, mode = program.stdout.readline().split()
        assert mode == "600"
        program.wait(PATIENCE)
        eventually(lambda: not os.path.exists(path), f"the end of {path}")


OLD = b"#CHALLENGE#"


def test_peers_of_before_python_3_12_are_understood():
    """Those know no digest but MD5, and say so by not saying which."""

    def old(conn):
        message = conn.recv_bytes(256)
        assert message.startswith(OLD)
        conn.send_bytes(hmac.new(KEY, message[len(OLD) :], "md5").digest())
        assert conn.recv_bytes(256) == b"#WELCOME#"
        message = os.urandom(20)
        conn.send_bytes(OLD + message)
        assert conn.recv_bytes(256) == hmac.new(KEY, message, "md5").digest()
        conn.send_bytes(b"#WELCOME#")

    with connection.Listener(authkey=KEY) as listener:
        client = connection.Client(listener.address)
        thread = threading.Thread(target=old, args=(client,))
        thread.start()
        listener.accept().close()
        thread.join(PATIENCE)


def standard(code):
    """A process of the standard module."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)


def test_the_standard_module_is_a_client_and_a_listener(tmp_path):
    with connection.Listener(authkey=KEY) as listener:
        client = standard(
            "from multiprocessing.connection import Client\n"
            f"c = Client({listener.address!r}, authkey={KEY!r})\n"
            "c.send([1, 'two']); print(c.recv())"
        )
        with listener.accept() as conn:
            assert conn.recv() == [1, "two"]
            conn.send("three")
            assert client.communicate(timeout=PATIENCE)[0] == "three\n"
    path = str(tmp_path / "socket")
    server = standard(
        "from multiprocessing.connection import Listener\n"
        f"l = Listener({path!r}, authkey={KEY!r}); print('ready', flush=True)\n"
        "c = l.accept(); c.send(c.recv() + 1); c.close()"
    )
    assert server.stdout.readline() == "ready\n"
    with connection.Client(path, authkey=KEY) as conn:
        conn.send(1)
        assert conn.recv() == 2
    server.communicate(timeout=PATIENCE)


# Descriptors.


def take(conn):
    conn.send(conn.recv().recv())
    conn.close()


def test_a_connection_is_sent_through_a_connection(ctx):
    ours, theirs = connection.Pipe()
    child = start(ctx, take, theirs)
    theirs.close()
    reader, writer = connection.Pipe(duplex=False)
    ours.send(reader)
    writer.send("through both")
    assert ours.recv() == "through both"
    child.join()


def send_and_wait(conn):
    reader, writer = os.pipe()
    conn.send(resource_sharer.DupFd(reader))
    signal.pause()


def test_a_descriptor_of_who_was_killed_is_an_error(ctx):
    ours, theirs = connection.Pipe()
    child = start(ctx, send_and_wait, theirs)
    theirs.close()
    descriptor = ours.recv()
    child.kill()
    child.join()
    with pytest.raises(OSError, match="is gone"):
        descriptor.detach()


def test_a_descriptor_is_received_once():
    reader, writer = os.pipe()
    pickled = pickle.dumps(resource_sharer.DupFd(writer))
    os.close(writer)
    writer = pickle.loads(pickled).detach()
    with pytest.raises(FileNotFoundError, match="once"):
        pickle.loads(pickled).detach()
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_a_fork_does_not_keep_what_waits_to_be_received():
    reader, writer = os.pipe()
    waiting = resource_sharer.DupFd(writer)
    os.close(writer)
    pid = os.fork()
    if not pid:
        signal.pause()
    try:
        os.close(waiting.detach())
        assert select.select([reader], [], [], PATIENCE)[0], "the fork has the other end"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)


def test_connections_leave_no_descriptor_behind():
    resource_sharer.stop()
    before = set(os.listdir("/proc/self/fd"))
    for duplex in (True, False):
        reader, writer = connection.Pipe(duplex)
        writer.send(connection.Connection(os.dup(0)))
        del reader, writer
    for family in connection.families:
        with connection.Listener(family=family) as listener, connection.Client(listener.address), listener.accept():
            pass
    resource_sharer.stop()
    assert set(os.listdir("/proc/self/fd")) == before
