"""The server of a manager: objects of a process that other processes use.

No connection has a thread. All threads of the server wait for all connections at once, in epoll(7); who gets a request carries it out, for as long as that takes,
and there is always another one that waits. An idle client costs a descriptor. (One exception: who calls an object of a type that is not one of the manager's own
has a thread to itself from then on, as such objects may belong to threads, like a `threading.RLock`.)

What the server knows of its clients makes it lose nothing with them. Each process has a session here (see `_references`), whose end, also by SIGKILL, gives its
references back. What a call has taken, a lock or an item of a queue, and could not be handed over because the client has died meanwhile, is put back.
"""

import array
import collections
import contextlib
import itertools
import os
import queue
import select
import socket
import struct
import sys
import threading
import time
import traceback
import weakref

from . import connection, process, util
from ._references import listener_client
from .reduction import ForkingPickler

__all__ = []

# So many threads wait for requests at most; others end after theirs.
_MOST_IDLE = 8
# So many clients prove their keys at the same time at most; the others wait.
_MOST_STRANGERS = 64

_READY = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT


class _Serving(threading.local):
    client = None


# Whom this thread serves at the moment.
serving = _Serving()


class Token:
    """Which object of which server."""

    __slots__ = ("typeid", "address", "id")

    def __init__(self, typeid, address, id):
        self.typeid, self.address, self.id = typeid, address, id

    def __getstate__(self):
        return self.typeid, self.address, self.id

    def __setstate__(self, state):
        self.typeid, self.address, self.id = state

    def __repr__(self):
        return f"{type(self).__name__}(typeid={self.typeid!r}, address={self.address!r}, id={self.id!r})"


def all_methods(obj):
    """The names of the methods of an object."""
    return [name for name in dir(obj) if callable(getattr(obj, name))]


def public_methods(obj):
    """The names of the methods of an object that do not begin with an underscore."""
    return [name for name in all_methods(obj) if not name.startswith("_")]


class Entry:
    """An object of the server. `count` is how many references clients have."""

    __slots__ = ("obj", "typeid", "ident", "exposed", "method_to_typeid", "count", "undo", "is_free", "__weakref__")

    def __init__(self, obj, typeid, ident, exposed, method_to_typeid):
        self.obj, self.typeid, self.ident = obj, typeid, ident
        self.exposed = frozenset(exposed)
        self.method_to_typeid = method_to_typeid or {}
        self.count = 0
        self.undo = _undo.get(type(obj), {})
        self.is_free = type(obj) in _free_types


class _Session:
    """A process that has references."""

    def __init__(self):
        self.id = os.urandom(16).hex()
        self.references = collections.Counter()
        self.is_alive = True
        self.clients = weakref.WeakSet()
        # What is free again when the process has been killed, and how often it has that: a lock, permits of a semaphore.
        self.held = collections.Counter()


class _Client:
    """A connection."""

    def __init__(self, conn):
        self.conn = conn
        self.fd = conn.fileno()
        wrapped = isinstance(conn, connection.ConnectionWrapper)
        self.dumps = conn._dumps if wrapped else ForkingPickler.dumps
        self.loads = conn._loads if wrapped else ForkingPickler.loads
        self.session = None
        self.is_holder = False
        # From now on the thread that serves it does nothing else.
        self.has_thread = False
        self.call = None
        # Whose its recursive locks are.
        self.owner = self


class Server:
    """Objects, and those who use them."""

    public = [
        "shutdown", "create", "accept_connection", "get_methods", "debug_info", "number_of_objects", "dummy", "incref",
        "decref", "hold", "in_session", "leave",
    ]  # fmt: skip

    def __init__(self, registry, address, authkey, serializer):
        if not isinstance(authkey, bytes):
            raise TypeError(f"Authkey {authkey!r} is type {type(authkey)!s}, not bytes")
        self.registry = registry
        self.authkey = process.AuthenticationString(authkey)
        # Who connects proves its key in a thread that others do not wait for: see `_admit`.
        self.listener = listener_client[serializer][0](address=address, backlog=128)
        self.address = self.listener.address
        # What clients refer to, and what lives at all: proxies within the server keep it, too.
        self.id_to_obj = {}
        self._living = weakref.WeakValueDictionary()
        self._of_objects = weakref.WeakValueDictionary()
        self.mutex = threading.RLock()
        self.stop_event = threading.Event()
        self._numbers = itertools.count(1)
        self._sessions = weakref.WeakValueDictionary()
        self._clients = {}
        self._waiting = self._threads = self._strangers = 0

    # Threads

    def serve_forever(self):
        """Serves until it is told to shut down; ends the thread by SystemExit then."""
        self.stop_event.clear()
        process.current_process()._manager_server = self
        self._epoll = select.epoll()
        self._stop, self._stopper = os.pipe()
        self._socket = self.listener._listener._socket
        self._epoll.register(self._stop, select.EPOLLIN)
        self._epoll.register(self._socket, _READY)
        util.register_after_fork(self, Server._after_fork)
        try:
            self._more()
            self._more()
            self.stop_event.wait()
        except (KeyboardInterrupt, SystemExit):
            pass
        finally:
            self.stop_event.set()
            with contextlib.suppress(OSError):
                # The last thread of the server may have been faster, and closed it.
                os.write(self._stopper, b"x")
            self.listener.close()
            self._hang_up()
            if sys.stdout != sys.__stdout__:
                util.debug("resetting stdout, stderr")
                sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        sys.exit(0)

    def _more(self):
        with self.mutex:
            self._threads += 1
        threading.Thread(target=self._work, daemon=True, name="manager").start()

    def _work(self):
        try:
            while not self.stop_event.is_set():
                with self.mutex:
                    if self._waiting >= _MOST_IDLE:
                        return
                    self._waiting += 1
                try:
                    events = self._epoll.poll(None, 1)
                finally:
                    with self.mutex:
                        self._waiting -= 1
                        is_last = self._waiting == 0
                if self.stop_event.is_set():
                    return
                if is_last:
                    self._more()
                for fd, _ in events:
                    if (client := self._clients.get(fd)) is not None:
                        self._serve(client)
                    elif fd == self._socket.fileno():
                        self._admit()
        finally:
            with self.mutex:
                self._threads -= 1
                is_over = self._threads == 0
            if is_over and self.stop_event.is_set():
                self._close()

    def _close(self):
        for client in list(self._clients.values()):
            self._leaves(client)
        self._epoll.close()
        os.close(self._stop)
        os.close(self._stopper)

    def _hang_up(self):
        # Who waits for a client, or for an answer, sees the end.
        with self.mutex:
            for client in self._clients.values():
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(client.fd)) as sock:
                    sock.shutdown(socket.SHUT_RDWR)

    def _after_fork(self):
        # In a child of the server: the connections are not its own.
        for client in list(self._clients.values()):
            client.conn.close()
        self._clients = {}
        self._epoll.close()
        self._socket.close()

    # Connections

    def _admit(self):
        try:
            sock, address = self._socket.accept()
        except OSError as error:
            # EMFILE, for example: not again and again.
            util.info("a client cannot be accepted: %s", error)
            time.sleep(0.1)
            self._listen_on()
            return
        with self.mutex:
            self._strangers += 1
            may_more = self._strangers < _MOST_STRANGERS
        if may_more:
            self._listen_on()
        client = None
        try:
            client = self._meet(sock)
        except Exception as error:
            util.info("a client is not admitted: %s", error)
            sock.close()
        finally:
            with self.mutex:
                self._strangers -= 1
            if not may_more:
                self._listen_on()
        if client is not None:
            self._clients[client.fd] = client
            self._epoll.register(client.fd, _READY)

    def _listen_on(self):
        try:
            self._epoll.modify(self._socket, _READY)
        except (OSError, ValueError):
            # It was closed.
            pass

    def _meet(self, sock):
        stranger = _Stranger(sock)
        connection.deliver_challenge(stranger, self.authkey)
        connection.answer_challenge(stranger, self.authkey)
        sock.setblocking(True)
        conn = connection.Connection(sock.detach())
        if isinstance(self.listener, connection.XmlListener):
            conn = connection.ConnectionWrapper(conn, connection._xml_dumps, connection._xml_loads)
        return _Client(conn)

    def _leaves(self, client):
        with self.mutex:
            if self._clients.pop(client.fd, None) is None:
                return
            with contextlib.suppress(OSError, ValueError):
                self._epoll.unregister(client.fd)
            client.conn.close()
        if client.is_holder:
            self._end_session(client.session, was_killed=True)

    def _end_session(self, session, was_killed):
        with self.mutex:
            if not session.is_alive:
                return
            session.is_alive = False
            references, session.references = session.references, collections.Counter()
            # Let go of without the lock.
            ended = [self._release(ident, count) for ident, count in references.items()]
            waiting = [client.call for client in session.clients]
        del ended
        for lock, count in list(session.held.items()):
            lock._lose(session, count, was_killed)
        # Who waits at a barrier with the one that has died would wait for ever.
        for call in waiting:
            if call is not None and type(call[0].obj) is threading.Barrier and call[1] == "wait":
                call[0].obj.abort()

    def _serve(self, client):
        serving.client = client
        try:
            while self._answer(client):
                if not client.has_thread:
                    self._epoll.modify(client.fd, _READY)
                    return
            self._leaves(client)
        except BaseException:
            # Nothing that a client does may cost the server a thread, or leave the client without an answer.
            self._leaves(client)
            util.info("a client was dropped: %s", traceback.format_exc())
        finally:
            serving.client = None

    def _answer(self, client):
        """One request. Whether there may be another one."""
        try:
            data = client.conn.recv_bytes()
        except (EOFError, OSError):
            return False
        undo = ident = name = None
        try:
            message = client.loads(data)
            del data
            ident, name, args, kwds = message
        except Exception:
            reply = "#TRACEBACK", traceback.format_exc()
        else:
            if ident is None:
                reply = self._do(client, name, args, kwds)
                if reply is None:
                    return True
            else:
                reply, undo = self._call(client, ident, name, args, kwds)
            del message, args, kwds
        try:
            reply = client.dumps(reply)
        except Exception:
            if undo is not None:
                undo()
                undo = None
            reply = client.dumps(("#UNSERIALIZABLE", traceback.format_exc()))
        try:
            if undo is not None and _has_hung_up(client.fd):
                raise EOFError
            client.conn.send_bytes(reply)
        except (EOFError, OSError):
            if undo is not None:
                undo()
            return False
        if ident is None and name == "shutdown":
            self.stop_event.set()
        return True

    # Requests to the server

    def _do(self, client, name, args, kwds):
        if name == "in_session":
            number, name, args, kwds = args
            reply = self._do(client, name, args, kwds)
            return None if number is None else ("#RETURN", (number, *reply))
        try:
            if name not in self.public:
                raise AttributeError(f"{name!r} is not a request to a manager's server")
            return "#RETURN", getattr(self, name)(client, *args, **kwds)
        except BaseException:
            return "#TRACEBACK", traceback.format_exc()

    def dummy(self, c):
        """Nothing: it answers."""

    def hold(self, c):
        """The client is a process that refers to objects as long as this connection lasts. Gives a name that its other connections are known by."""
        c.session, c.is_holder = _Session(), True
        self._sessions[c.session.id] = c.session
        return c.session.id

    def leave(self, c):
        """The process of the session refers to nothing any more."""
        self._end_session(c.session, was_killed=False)

    def accept_connection(self, c, name, session=None, thread=None):
        """The connection is one for calls, of a thread of the process of that session."""
        c.session = self._sessions.get(session)
        if c.session is not None:
            c.session.clients.add(c)
            c.owner = session, thread

    def shutdown(self, c):
        """Ends the server, after the answer."""
        util.debug("manager received shutdown message")

    def create(self, c, typeid, /, *args, **kwds):
        """Makes an object, that the client refers to."""
        callable, exposed, method_to_typeid, _ = self.registry[typeid]
        if callable is None:
            if kwds or len(args) != 1:
                raise ValueError("Without callable, must have one non-keyword argument")
            obj = args[0]
        else:
            obj = callable(*args, **kwds)
        entry, exposed = self._enter(obj, typeid, exposed, method_to_typeid)
        self._grant(entry, c)
        return entry.ident, tuple(exposed)

    def _enter(self, obj, typeid, exposed, method_to_typeid):
        exposed = list(public_methods(obj) if exposed is None else exposed)
        exposed += method_to_typeid or ()
        with self.mutex:
            entry = self._of_objects.get((id(obj), typeid))
            if entry is None:
                entry = Entry(obj, typeid, f"{next(self._numbers):x}", exposed, method_to_typeid)
                self._living[entry.ident] = self._of_objects[id(obj), typeid] = entry
        return entry, exposed

    def get_methods(self, c, token):
        """The names of the methods of an object that may be called."""
        return tuple(self._entry(token.id).exposed)

    def number_of_objects(self, c):
        """How many objects clients refer to."""
        return len(self.id_to_obj)

    def debug_info(self, c):
        """The objects that clients refer to, as text."""
        with self.mutex:
            entries = sorted(self.id_to_obj.items())
        return "\n".join(f"  {ident}:       refcount={entry.count}\n    {str(entry.obj)[:75]}" for ident, entry in entries)

    def incref(self, c, ident):
        """One reference more."""
        with self.mutex:
            self._grant(self._entry(ident), c)

    def decref(self, c, ident):
        """One reference less."""
        with self.mutex:
            if c.session is not None:
                if c.session.references[ident] <= 0:
                    return
                c.session.references[ident] -= 1
                if not c.session.references[ident]:
                    del c.session.references[ident]
            ended = self._release(ident, 1)
        del ended

    def _entry(self, ident):
        entry = self._living.get(ident)
        if entry is None:
            raise KeyError(
                f"the manager has no object {ident!r} (any more): the last reference to it was gone before this one came. "
                "Who hands on a proxy has to keep it until it has arrived"
            )
        return entry

    def _grant(self, entry, client):
        with self.mutex:
            if client is not None and client.session is not None:
                if not client.session.is_alive:
                    return
                client.session.references[entry.ident] += 1
            entry.count += 1
            self.id_to_obj[entry.ident] = entry

    def _release(self, ident, count):
        entry = self.id_to_obj.get(ident)
        if entry is not None:
            entry.count -= count
            if entry.count <= 0:
                del self.id_to_obj[ident]
        return entry

    # Calls

    def _call(self, client, ident, name, args, kwds):
        try:
            entry = self._entry(ident)
            function = self._function(entry, name)
        except Exception:
            return ("#TRACEBACK", traceback.format_exc()), None
        if not entry.is_free:
            client.has_thread = True
        client.call = entry, name
        try:
            result = function(*args, **kwds)
        except Exception as error:
            return _failure(client, error), None
        except BaseException:
            return ("#TRACEBACK", traceback.format_exc()), None
        finally:
            client.call = None
        undo = entry.undo.get(name)
        if undo is not None:
            undo = undo(entry.obj, result)
        typeid = entry.method_to_typeid.get(name)
        if typeid is None:
            return ("#RETURN", result), undo
        try:
            _, exposed, method_to_typeid, _ = self.registry[typeid]
            made, exposed = self._enter(result, typeid, exposed, method_to_typeid)
            self._grant(made, client)
        except Exception:
            return ("#TRACEBACK", traceback.format_exc()), None
        return ("#PROXY", (tuple(exposed), Token(typeid, self.address, made.ident))), None

    def _function(self, entry, name):
        if name in entry.exposed:
            return getattr(entry.obj, name)
        if name in _fallbacks:
            return lambda *args, **kwds: _fallbacks[name](entry.obj)
        raise AttributeError(f"method {name!r} of {type(entry.obj)!r} object is not in exposed={sorted(entry.exposed)!r}")

    def call_within(self, entry, name, args, kwds):
        """A call by a proxy within the server."""
        result = self._function(entry, name)(*args, **kwds)
        typeid = entry.method_to_typeid.get(name)
        if typeid is None:
            return result
        from .managers import RebuildProxy

        _, exposed, method_to_typeid, proxytype = self.registry[typeid]
        made, exposed = self._enter(result, typeid, exposed, method_to_typeid)
        return RebuildProxy(proxytype, Token(typeid, self.address, made.ident), "pickle", {"exposed": exposed})


_fallbacks = {"__str__": str, "__repr__": repr, "#GETVALUE": lambda obj: obj}


def _failure(client, error):
    """The answer to a call that has raised `error`."""
    text = traceback.format_exc()
    try:
        error.add_note(f"In the manager's server:\n{text}")
        client.loads(client.dumps(error))
    except Exception:
        return "#TRACEBACK", text
    return "#ERROR", error


def _has_hung_up(fd):
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    return bool(poll.poll(0))


class _Stranger:
    """A client that has not proved its key yet: there is an end to how long that may take, as a whole."""

    def __init__(self, sock):
        self._sock = sock
        self._until = time.monotonic() + connection.CONNECTION_TIMEOUT

    def _patience(self):
        left = self._until - time.monotonic()
        if left <= 0:
            raise connection.AuthenticationError(f"no proof of the key within {connection.CONNECTION_TIMEOUT} s")
        self._sock.settimeout(left)

    def send_bytes(self, data):
        self._patience()
        self._sock.sendall(struct.pack("!i", len(data)) + data)

    def recv_bytes(self, maxlength):
        (length,) = struct.unpack("!i", self._exactly(4))
        if not 0 <= length <= maxlength:
            raise OSError("bad message length")
        return self._exactly(length)

    def _exactly(self, length):
        data = b""
        while len(data) < length:
            self._patience()
            more = self._sock.recv(length - len(data))
            if not more:
                raise EOFError
            data += more
        return data


# Locks, whose holders are clients. When a process has been killed, what it had is free again.


def _session_served():
    return serving.client and serving.client.session


class Lock:
    """A lock, that anybody may release."""

    def __init__(self):
        self._lock = threading.Lock()
        self._holder = None

    def acquire(self, blocking=True, timeout=-1):
        """Takes it. Whether it was free in time."""
        if not self._lock.acquire(blocking, timeout):
            return False
        self._holder = session = _session_served()
        if session is not None:
            session.held[self] = 1
            # It may have ended before it has this: then nobody else looks.
            if not session.is_alive:
                self._lose(session, 1, True)
        return True

    def release(self):
        """Gives it back."""
        holder, self._holder = self._holder, None
        if holder is not None:
            holder.held.pop(self, None)
        self._lock.release()

    def locked(self):
        """Whether somebody has it."""
        return self._lock.locked()

    def _lose(self, session, count, was_killed):
        # Who has ended in order may have left the release to others.
        if was_killed and self._holder is session:
            self.release()

    __enter__ = acquire

    def __exit__(self, *error):
        self.release()


class BoundedSemaphore(threading.BoundedSemaphore):
    """A semaphore whose permits come back from those that have been killed."""

    def acquire(self, blocking=True, timeout=None):
        """Takes a permit. Whether there was one in time."""
        if not super().acquire(blocking, timeout):
            return False
        session = _session_served()
        if session is not None:
            session.held[self] += 1
            if not session.is_alive:
                self._lose(session, session.held[self], True)
        return True

    def release(self, n=1):
        """Gives back `n` permits."""
        session = _session_served()
        if session is not None and self in session.held:
            session.held[self] -= n
            if session.held[self] <= 0:
                del session.held[self]
        super().release(n)

    def _lose(self, session, count, was_killed):
        count = session.held.pop(self, 0)
        if was_killed:
            for _ in range(count):
                try:
                    super().release()
                except ValueError:
                    # Another process has given it back.
                    return

    __enter__ = acquire


class RLock:
    """A recursive lock that belongs to a thread of a client. It is free when that one's process has ended."""

    def __init__(self):
        self._lock = threading.Lock()
        self._owner = self._session = None
        self._count = 0

    @staticmethod
    def _me():
        return threading.get_ident() if serving.client is None else serving.client.owner

    def acquire(self, blocking=True, timeout=-1):
        """Takes it, once more if it is the caller's already."""
        if self._is_owned():
            self._count += 1
            return True
        if not self._lock.acquire(blocking, timeout):
            return False
        self._become_mine(1)
        return True

    def _become_mine(self, count):
        self._owner, self._count = self._me(), count
        self._session = session = _session_served()
        if session is not None:
            session.held[self] = 1
            if not session.is_alive:
                self._lose(session, 1, True)

    def release(self):
        """Gives it back, as often as it was taken."""
        if not self._is_owned():
            raise RuntimeError("cannot release un-acquired lock")
        self._count -= 1
        if not self._count:
            self._free()

    def _free(self):
        if self._session is not None:
            self._session.held.pop(self, None)
        self._owner, self._session, self._count = None, None, 0
        self._lock.release()

    def _lose(self, session, count, was_killed):
        if self._session is session:
            self._free()

    def locked(self):
        """Whether somebody has it."""
        return self._lock.locked()

    __enter__ = acquire

    def __exit__(self, *error):
        self.release()

    # What `threading.Condition` asks of its lock.

    def _is_owned(self):
        return self._owner == self._me()

    def _release_save(self):
        count = self._count
        self._free()
        return count

    def _acquire_restore(self, count):
        self._lock.acquire()
        self._become_mine(count)


class Condition(threading.Condition):
    """A condition whose lock is one of this server's."""

    def __init__(self, lock=None):
        # A proxy stands for the lock itself.
        entry = getattr(lock, "_entry", None)
        super().__init__(RLock() if lock is None else lock if entry is None else entry.obj)


# What cannot be handed over is put back: how, by type and method, for what it has given.


def _release(obj, result):
    return obj.release if result else None


def _notify_another(condition, result):
    def undo():
        if condition._is_owned():
            condition.notify()
            return
        # Its process has ended, and the lock is not the waiter's any more.
        client, serving.client = serving.client, None
        try:
            with condition:
                condition.notify()
        finally:
            serving.client = client

    return undo if result else None


def _release_lock(lock, result):
    session = _session_served()

    def undo():
        # Unless that has been done with the session.
        if session is None or lock in session.held:
            lock.release()

    return undo if result else None


def _put_back(obj, item):
    def undo():
        with obj.mutex:
            obj.queue.appendleft(item)
            obj.not_empty.notify()

    return undo


_get = {"get": _put_back, "get_nowait": _put_back}
_undo = {
    threading.Semaphore: {"acquire": _release},
    threading.BoundedSemaphore: {"acquire": _release},
    type(threading.Lock()): {"acquire": _release},
    BoundedSemaphore: {"acquire": _release_lock},
    Lock: {"acquire": _release_lock},
    RLock: {"acquire": _release_lock},
    Condition: {"wait": _notify_another},
    queue.Queue: _get,
}

# What does not mind which thread calls it.
_free_types = {
    list, dict, set, array.array, queue.Queue, queue.SimpleQueue, Lock, RLock, BoundedSemaphore, Condition, threading.Event, threading.Semaphore,
    threading.BoundedSemaphore, threading.Barrier, type(threading.Lock()), type(iter([])), type(iter({})),
    type(iter({}.items())), type(iter({}.values())), type(_ for _ in ()),
}  # fmt: skip


def is_free(*types):
    """Says of types that it does not matter which thread calls their objects."""
    _free_types.update(types)
