"""A process's side of its managers: connections to servers, and references to objects there.

A process has one *session* with each server: a connection over which it creates objects and tells which of them it still refers to. When that connection ends,
however that comes, the server knows that the process does not refer to anything any more. Calls of objects go over other connections, one for each thread that
makes them.

References are counted here, and only the first and the last one to an object are told. The last one goes when a proxy is collected, which may happen in the
middle of anything, also of this module: it is noted then, and told by whoever has the session next.
"""

import collections
import contextlib
import itertools
import os
import threading

from . import _broody, context, process, util
from .connection import Client, ConnectionWrapper, Listener, XmlClient, XmlListener, _client_with_patience, _xml_dumps, _xml_loads, address_type

__all__ = []

listener_client = {"pickle": (Listener, Client), "xmlrpclib": (XmlListener, XmlClient)}

# How long the end of a process waits for a server to know of it, in seconds.
_PATIENCE = 1.0
# How long a thread waits for the session when another one asks something, in seconds. Most answers are there in microseconds; a new object may take its time.
_TURN = 0.01


class RemoteError(context.ProcessError):
    """What went wrong in the server; its argument is the traceback there, as text."""

    def __str__(self):
        line = "-" * 75
        return f"\n{line}\n{self.args[0]}{line}"


def convert_to_error(kind, result):
    """The exception that a server's answer stands for."""
    if kind == "#ERROR":
        return result
    if kind not in ("#TRACEBACK", "#UNSERIALIZABLE"):
        return ValueError(f"Unrecognized message type {kind!r}")
    if not isinstance(result, str):
        return TypeError(f"the answer {kind!r} of a manager should be text, not {type(result).__name__}")
    return RemoteError(f"Unserializable message: {result}\n" if kind == "#UNSERIALIZABLE" else result)


def has_ended(address):
    """The error of who asks a server that is not there any more."""
    return EOFError(f"the manager at {address!r} has ended, and its objects with it")


def dispatch(c, id, methodname, args=(), kwds={}):
    """Asks the server at the other end of `c`, and gives its answer or raises it."""
    c.send((id, methodname, args, kwds))
    kind, result = c.recv()
    if kind == "#RETURN":
        return result
    try:
        raise convert_to_error(kind, result)
    finally:
        # The traceback has this frame, which must not have the exception: nobody but the garbage collector would let go of it.
        del result


def ask_to_end(address, authkey, serializer, patience):
    """Tells a server to end; an error if it does not answer, `patience` seconds long."""
    with contextlib.closing(_client_with_patience(address, authkey, patience)) as conn:
        if serializer != "pickle":
            conn = ConnectionWrapper(conn, _xml_dumps, _xml_loads)
        conn.send((None, "shutdown", (), {}))
        if not conn.poll(patience):
            raise TimeoutError(f"the manager at {address!r} has not answered in {patience} s")
        conn.recv()


def name_of_caller():
    """What a server calls the thread that serves this one."""
    name = process.current_process().name
    thread = threading.current_thread()
    return name if thread is threading.main_thread() else f"{name}|{thread.name}"


def number_of_thread():
    """Which thread of this process calls; not again another one's when it has ended."""
    try:
        return _local.number
    except AttributeError:
        _local.number = next(_numbers)
        return _local.number


class Session:
    """A process's session with the server at `address`.

    A server of the standard module does not know of sessions: there each reference is told over a connection of its own.
    """

    # It is not to be used any more.
    is_over = False

    def __init__(self, address, authkey, serializer):
        self._address, self._authkey, self._serializer = address, authkey, serializer
        self._lock = threading.Lock()
        self._owner = None
        self._numbers = itertools.count()
        self._counts = collections.Counter()
        # References that are new here and counted by the server, and those that have ended here: (id, which), as they came.
        self._changes = collections.deque()
        # Creations whose caller was interrupted, and has not seen the answer.
        self._abandoned = set()
        conn = self._connect()
        try:
            self.id = dispatch(conn, None, "hold")
            self._conn = conn
        except RemoteError:
            self.id = self._conn = None
            conn.close()

    def _connect(self):
        return listener_client[self._serializer][1](self._address, authkey=self._authkey)

    def connect(self):
        """A `Caller` for one thread."""
        return self._as_caller(self._connect_as_member())

    def _connect_as_member(self):
        conn = self._connect()
        try:
            who = () if self.id is None else (self.id, number_of_thread())
            dispatch(conn, None, "accept_connection", (name_of_caller(), *who))
        except BaseException:
            conn.close()
            raise
        return conn

    def _as_caller(self, conn):
        serializer = None
        if isinstance(conn, ConnectionWrapper):
            serializer, conn = (conn._dumps, conn._loads), conn._conn
        handle, conn._handle = conn._handle, None
        return _broody.Caller(handle, self.id is not None, address_type(self._address) == "AF_UNIX", serializer)

    # Questions

    def request(self, name, *args, **kwds):
        """Asks the server itself."""
        if self._conn is None:
            with contextlib.closing(self._connect()) as conn:
                return dispatch(conn, None, name, args, kwds)
        if not self._take_turn():
            with contextlib.closing(self._connect_as_member()) as conn:
                return dispatch(conn, None, name, args, kwds)
        try:
            return self._exchange(name, args, kwds)
        finally:
            self._end_turn()

    def _take_turn(self):
        """Whether the session's connection is this thread's now. Not, where another thread waits for a long answer, and in the middle of a request of this
        very thread: in a signal's handler, or at the end of an object."""
        if self._owner == threading.get_ident() or not self._lock.acquire(timeout=_TURN):
            return False
        self._owner = threading.get_ident()
        return True

    def _end_turn(self):
        self._owner = None
        self._lock.release()
        self._settle()

    def _exchange(self, name, args, kwds):
        number = next(self._numbers)
        if name == "create":
            self._abandoned.add(number)
        try:
            self._conn.send((None, "in_session", (number, name, args, kwds), {}))
            while True:
                answered, kind, result = self._conn.recv()[1]
                if answered == number:
                    break
                # Whoever asked for that was interrupted by an exception of a signal's handler.
                if answered in self._abandoned and kind == "#RETURN":
                    self._changes.extend(((result[0], 1), (result[0], -1)))
                self._abandoned.discard(answered)
        except (EOFError, OSError) as error:
            forget(self)
            if not error.args:
                raise has_ended(self._address) from None
            raise
        self._abandoned.discard(number)
        if kind == "#RETURN":
            return result
        try:
            raise convert_to_error(kind, result)
        finally:
            # The traceback has this frame, which must not have the exception: nobody but the garbage collector would let go of it.
            del result

    def _tell(self, name, *args):
        try:
            self._conn.send((None, "in_session", (None, name, args, {}), {}))
        except OSError:
            # The server has ended, and with it what was to be told.
            forget(self)

    # References

    def incref(self, ident):
        """One reference more."""
        if self._conn is None:
            self.request("incref", ident)
            return
        if not self._take_turn():
            self.request("incref", ident)
            self.adopt(ident)
            return
        try:
            if not self._counts[ident]:
                try:
                    self._exchange("incref", (ident,), {})
                except BaseException:
                    del self._counts[ident]
                    raise
            self._counts[ident] += 1
        finally:
            self._end_turn()

    def adopt(self, ident):
        """A reference that the server has counted already: it came with an answer."""
        if self._conn is not None:
            self._changes.append((ident, 1))
            self._settle()

    def decref(self, ident):
        """One reference less. May be called at any moment."""
        if self._conn is None:
            try:
                self.request("decref", ident)
            except (EOFError, OSError, RemoteError) as error:
                util.debug("decref failed: %s", error)
            return
        self._changes.append((ident, -1))
        self._settle()

    def _settle(self):
        """Counts what has changed, and tells it. Left to whoever has the connection, if somebody has."""
        while self._changes and self._lock.acquire(blocking=False):
            self._owner = threading.get_ident()
            try:
                while self._changes:
                    self._count(*self._changes.popleft())
            finally:
                self._owner = None
                self._lock.release()

    def _count(self, ident, change):
        self._counts[ident] += change
        if change > 0:
            if self._counts[ident] > 1:
                # One is enough for the server.
                self._tell("decref", ident)
        elif self._counts[ident] <= 0:
            del self._counts[ident]
            self._tell("decref", ident)

    def close(self):
        """The process lets go of everything, and the server knows it when this returns."""
        if self._conn is None:
            return
        if not self._lock.acquire(timeout=_PATIENCE):
            return
        try:
            self._conn.send((None, "in_session", (next(self._numbers), "leave", (), {}), {}))
            # An answer, whatever it is to, or the end.
            self._conn.poll(_PATIENCE)
        except OSError:
            pass
        finally:
            self._lock.release()


# The sessions of this process, by address and key; and its threads' connections, by session. Not those of a fork's parent: to close them here does not end them.

_sessions = {}
_making = threading.Lock()
_local = threading.local()
_numbers = itertools.count()
_leaving = None
# The keys of the servers that this process has to do with. A proxy that comes within an answer has none of its own.
_keys = {}


def session(address, authkey, serializer):
    """This process's session with the server at `address`."""
    key = address, bytes(authkey)
    found = _sessions.get(key)
    if found is None:
        made = Session(address, authkey, serializer)
        with _making:
            found = _sessions.setdefault(key, made)
        leave_at_exit()
    return found


def leave_at_exit():
    """Lets the end of this process tell its servers. A process that has just begun may have forgotten that it was to do so."""
    global _leaving
    if _leaving is None or not _leaving.still_active():
        _leaving = util.Finalize(None, _leave, exitpriority=10)


def forget(session):
    """Its server has ended, or will."""
    for key, known in list(_sessions.items()):
        if known is session:
            _sessions.pop(key, None)
    session.is_over = True


def forget_address(address):
    """The server there has ended."""
    _keys.pop(address, None)
    for key in list(_sessions):
        if key[0] == address and (known := _sessions.pop(key, None)):
            known.is_over = True
    callers = _broody.callers()
    for known in list(callers):
        if known._address == address:
            callers.pop(known).close()


def learn_key(address, authkey):
    """The key of the server at `address`."""
    _keys[address] = authkey


def known_key(address):
    """The key of the server at `address`; None if it is not known."""
    return _keys.get(address)


def _leave():
    for known in list(_sessions.values()):
        known.close()
        known.is_over = True
    _sessions.clear()


def _after_fork():
    global _sessions, _making, _local, _leaving
    _leaving = None
    for known in _sessions.values():
        known.is_over = True
        # A child that lives longer than its parent would keep the parent's references.
        if known._conn is not None:
            known._conn.close()
    _broody.callers().clear()
    _sessions = {}
    _making = threading.Lock()
    _local = threading.local()


os.register_at_fork(after_in_child=_after_fork)
