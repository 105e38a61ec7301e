"""The server of a manager: objects of a process that other processes use.

Its loop, its connections, who is let in and who refers to what are the engine's (`crates/broody-py/src/manager`). Here are the requests to the server itself, and
what it lends: locks that know which process has them.

What the server knows of its clients makes it lose nothing with them. Each process has a session here (see `_references`), whose end, also by SIGKILL, gives its
references back. What a call has taken, a lock or an item of a queue, and could not be handed over because the client has died meanwhile, is put back.
"""

import array
import queue
import sys
import threading
import traceback

from . import _broody, connection, process, util
from ._references import listener_client
from .pool import ExceptionWithTraceback
from .reduction import ForkingPickler

__all__ = []

# Whom this thread serves at the moment.
served = _broody.served

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


class Server(_broody._Server):
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
        self.listener = listener_client[serializer][0](address=address, backlog=128)
        self.address = self.listener.address
        self.stop_event = threading.Event()

    # Threads

    def serve_forever(self):
        """Serves until it is told to shut down; ends the thread by SystemExit then."""
        self.stop_event.clear()
        process.current_process()._manager_server = self
        self._socket = self.listener._listener._socket
        serializer = (connection._xml_dumps, connection._xml_loads) if isinstance(self.listener, connection.XmlListener) else None
        self._listen(self._socket.fileno(), bytes(self.authkey), connection.CONNECTION_TIMEOUT, serializer)
        util.register_after_fork(self, Server._after_fork)
        try:
            self._more()
            self._more()
            self.stop_event.wait()
        except (KeyboardInterrupt, SystemExit):
            pass
        finally:
            self.stop_event.set()
            self._stop()
            self.listener.close()
            if sys.stdout != sys.__stdout__:
                util.debug("resetting stdout, stderr")
                sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        sys.exit(0)

    def _more(self):
        threading.Thread(target=self._work, daemon=True, name="manager").start()

    def _end(self):
        self.stop_event.set()

    def _after_fork(self):
        self._forget()
        self._socket.close()

    def _dropped(self, error):
        util.info("a client was dropped: %s", self._traceback(error))

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
        except BaseException as error:
            return "#TRACEBACK", self._traceback(error)

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
        entry, exposed = self._take_in(obj, typeid, exposed, method_to_typeid)
        self._grant(entry, c)
        return entry.ident, tuple(exposed)

    def _take_in(self, obj, typeid, exposed, method_to_typeid):
        exposed = list(public_methods(obj) if exposed is None else exposed)
        exposed += method_to_typeid or ()
        kind = type(obj)
        return self._enter(obj, typeid, frozenset(exposed), method_to_typeid, _undo.get(kind), kind in _free_types), exposed

    def get_methods(self, c, token):
        """The names of the methods of an object that may be called."""
        return tuple(self._entry(token.id).exposed)

    def debug_info(self, c):
        """The objects that clients refer to, as text."""
        return "\n".join(f"  {entry.ident}:       refcount={count}\n    {str(entry.obj)[:75]}" for entry, count in self._kept())

    # Calls

    def _give_proxy(self, client, typeid, obj):
        """The answer to a call whose result stays here."""
        _, exposed, method_to_typeid, _ = self.registry[typeid]
        made, exposed = self._take_in(obj, typeid, exposed, method_to_typeid)
        self._grant(made, client)
        return "#PROXY", (tuple(exposed), Token(typeid, self.address, made.ident))

    def _failed(self, error):
        """The answer to a call that has raised `error`."""
        text = self._traceback(error)
        try:
            # The text goes along as the error's cause: what the caller sees of the error itself is what the standard module's shows. A client of the standard
            # module, which has no session, may have no broody to unpickle that with.
            client = served()
            has_broody = client is not None and client.session is not None
            answer = ExceptionWithTraceback(error, error.__traceback__) if has_broody else error
            ForkingPickler.loads(ForkingPickler.dumps(answer))
        except Exception:
            return "#TRACEBACK", text
        return "#ERROR", answer

    @staticmethod
    def _traceback(error):
        return "".join(traceback.format_exception(error))

    def _lose(self, session, was_killed, calls):
        """A process has ended: what it had, and the calls in the middle of which it is."""
        for lock, count in list(session.held.items()):
            lock._lose(session, count, was_killed)
        # Who waits at a barrier with the one that has died would wait for ever.
        for entry, name in calls:
            if type(entry.obj) is threading.Barrier and name == "wait":
                entry.obj.abort()

    def call_within(self, entry, name, args, kwds):
        """A call by a proxy within the server."""
        result = entry.call(name, args, dict(kwds))
        typeid = entry.stays_as(name)
        if typeid is None:
            return result
        from .managers import RebuildProxy

        _, exposed, method_to_typeid, proxytype = self.registry[typeid]
        made, exposed = self._take_in(result, typeid, exposed, method_to_typeid)
        return RebuildProxy(proxytype, Token(typeid, self.address, made.ident), "pickle", {"exposed": exposed})


# Locks, whose holders are clients. When a process has been killed, what it had is free again.


def _session_served():
    client = served()
    return client and client.session


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
        client = served()
        return threading.get_ident() if client is None else client.owner

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
        client = _broody.serve(None)
        try:
            with condition:
                condition.notify()
        finally:
            _broody.serve(client)

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
