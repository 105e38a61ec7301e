"""How objects become bytes for another process, and how descriptors travel.

Behaviour: `multiprocessing.reduction` as its users know it; `ForkingPickler.register` is its public part.
"""

import array
import copyreg
import functools
import io
import pickle
import socket
from abc import ABCMeta

from . import _broody, context

__all__ = ["send_handle", "recv_handle", "ForkingPickler", "register", "dump", "DupFd", "sendfds", "recvfds"]

HAVE_SEND_HANDLE = True
ACKNOWLEDGE = True


class _Reducers:
    """What a pickler looks reducers up in: its own first, then those of `copyreg`."""

    def __init__(self, own):
        self._own = own

    def __getitem__(self, type):
        reduce = self._own.get(type)
        return copyreg.dispatch_table[type] if reduce is None else reduce

    def get(self, type, default=None):
        return self._own.get(type) or copyreg.dispatch_table.get(type, default)


class ForkingPickler(pickle.Pickler):
    """A pickler with reducers of its own, for objects that only broody can send."""

    _extra_reducers = {}
    _copyreg_dispatch_table = copyreg.dispatch_table
    # Of the class and not of each pickler: most messages are so small that making a table would take longer than pickling them.
    dispatch_table = _Reducers(_extra_reducers)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "dispatch_table" not in cls.__dict__:
            cls.dispatch_table = _Reducers(cls._extra_reducers)

    @classmethod
    def register(cls, type, reduce):
        """Pickles objects of `type` by what `reduce` gives for them."""
        cls._extra_reducers[type] = reduce
        _broody.forget_picklers()

    @classmethod
    def dumps(cls, obj, protocol=None):
        """The bytes of `obj`, as a buffer."""
        buffer = io.BytesIO()
        cls(buffer, protocol).dump(obj)
        return buffer.getbuffer()

    loads = pickle.loads


# Programs put picklers of their own in its place.
_ForkingPickler = ForkingPickler
register = ForkingPickler.register


def dump(obj, file, protocol=None):
    """Pickles `obj` into `file`."""
    ForkingPickler(file, protocol).dump(obj)


# Descriptors. See unix(7), SCM_RIGHTS.


def sendfds(sock, fds):
    """Sends descriptors over a Unix socket."""
    fds = array.array("i", fds)
    sock.sendmsg([bytes([len(fds) % 256])], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    if ACKNOWLEDGE and sock.recv(1) != b"A":
        raise RuntimeError("did not receive acknowledgement of fd")


def recvfds(sock, size):
    """Receives `size` descriptors from a Unix socket."""
    fds = array.array("i")
    expected = fds.itemsize * size
    data, ancillary, _, _ = sock.recvmsg(1, socket.CMSG_SPACE(expected))
    if not data and not ancillary:
        raise EOFError
    if ACKNOWLEDGE:
        sock.send(b"A")
    if len(ancillary) != 1:
        raise RuntimeError(f"received {len(ancillary)} items of ancdata")
    level, kind, content = ancillary[0]
    if level != socket.SOL_SOCKET or kind != socket.SCM_RIGHTS or len(content) % fds.itemsize:
        raise RuntimeError("Invalid data received")
    fds.frombytes(content)
    if len(fds) % 256 != data[0]:
        raise AssertionError(f"Len is {len(fds)!r} but msg[0] is {data[0]!r}")
    return list(fds)


def send_handle(conn, handle, destination_pid):
    """Sends a descriptor over a connection that is a Unix socket."""
    with socket.fromfd(conn.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sendfds(sock, [handle])


def recv_handle(conn):
    """Receives a descriptor from a connection that is a Unix socket."""
    with socket.fromfd(conn.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        return recvfds(sock, 1)[0]


def DupFd(fd):
    """Something picklable whose `detach()` gives a duplicate of the descriptor where it is unpickled."""
    popen = context.get_spawning_popen()
    if popen is not None:
        return popen.DupFd(popen.duplicate_for_child(fd))
    from . import resource_sharer

    return resource_sharer.DupFd(fd)


# Objects that pickle does not know


class _C:
    def f(self):
        pass

    @classmethod
    def h(cls):
        pass


def _reduce_method(method):
    if method.__self__ is None:
        return getattr, (method.__class__, method.__func__.__name__)
    return getattr, (method.__self__, method.__func__.__name__)


def _reduce_method_descriptor(method):
    return getattr, (method.__objclass__, method.__name__)


def _reduce_partial(partial):
    return _rebuild_partial, (partial.func, partial.args, partial.keywords or {})


def _rebuild_partial(func, args, keywords):
    return functools.partial(func, *args, **keywords)


def _reduce_socket(sock):
    return _rebuild_socket, (DupFd(sock.fileno()), sock.family, sock.type, sock.proto)


def _rebuild_socket(duplicate, family, type, proto):
    return socket.socket(family, type, proto, fileno=duplicate.detach())


register(type(_C().f), _reduce_method)
register(type(_C.h), _reduce_method)
register(type(list.append), _reduce_method_descriptor)
register(type(int.__add__), _reduce_method_descriptor)
register(functools.partial, _reduce_partial)
register(socket.socket, _reduce_socket)


class AbstractReducer(metaclass=ABCMeta):
    """A base class for what a context's `reducer` may be set to."""

    ForkingPickler = ForkingPickler
    register = register
    dump = dump
    send_handle = send_handle
    recv_handle = recv_handle
    sendfds = sendfds
    recvfds = recvfds
    DupFd = DupFd

    def __init__(self, *args):
        for kind, reduce in (
            (type(_C().f), _reduce_method),
            (type(_C.h), _reduce_method),
            (type(list.append), _reduce_method_descriptor),
            (type(int.__add__), _reduce_method_descriptor),
            (functools.partial, _reduce_partial),
            (socket.socket, _reduce_socket),
        ):
            register(kind, reduce)


