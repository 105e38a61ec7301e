"""Managers: objects that live in a process of their own, and proxies that stand for them.

The server's side is in `_server`, and how a process is connected with it in `_references`.

Behaviour: https://docs.python.org/3/library/multiprocessing.html#managers
"""

import array
import contextlib
import os
import queue
import signal
import threading
import time
import types

from . import _broody, _references, _server, connection, context, get_context, pool, process, reduction, util
from ._references import RemoteError, convert_to_error, dispatch, listener_client
from ._server import Server, Token, all_methods, public_methods
from .reduction import ForkingPickler

__all__ = ["BaseManager", "SyncManager", "BaseProxy", "Token", "SharedMemoryManager"]

HAS_SHMEM = True

# How objects of the server travel that pickle does not take.


def _reduce_array(a):
    return array.array, (a.typecode, a.tobytes())


def _reduce_view(view):
    return list, (list(view),)


reduction.register(array.array, _reduce_array)
for _view in (type({}.items()), type({}.keys()), type({}.values())):
    reduction.register(_view, _reduce_view)


# Managers

# How long a server that is to end has for its answer, in seconds: one that is stopped, or stuck in a method, never gives it.
_PATIENCE = 5.0


class State:
    """How far a manager is."""

    __slots__ = ("value",)
    INITIAL = 0
    STARTED = 1
    SHUTDOWN = 2


class BaseManager:
    """A process of its own for objects: `start` starts it, `connect` connects to one that was started elsewhere.

    address: where its server listens, by default a new Unix socket. authkey: what clients have to know, by default the process's. serializer: "pickle", or
    "xmlrpclib". shutdown_timeout: how long `shutdown` waits before it ends the server by force, in seconds.
    """

    _registry = {}
    _Server = Server

    def __init__(self, address=None, authkey=None, serializer="pickle", ctx=None, *, shutdown_timeout=1.0):
        self._address = address
        self._authkey = process.AuthenticationString(process.current_process().authkey if authkey is None else authkey)
        self._state = State()
        self._state.value = State.INITIAL
        self._serializer = serializer
        self._Listener, self._Client = listener_client[serializer]
        self._ctx = ctx or get_context()
        self._shutdown_timeout = shutdown_timeout
        self._process = None

    def _check_initial(self):
        if self._state.value == State.STARTED:
            raise context.ProcessError("Already started server")
        if self._state.value == State.SHUTDOWN:
            raise context.ProcessError("Manager has shut down")
        if self._state.value != State.INITIAL:
            raise context.ProcessError(f"Unknown state {self._state.value!r}")

    def get_server(self):
        """The manager's server, for this process: its `serve_forever()` is to be called."""
        self._check_initial()
        return self._Server(self._registry, self._address, self._authkey, self._serializer)

    def connect(self):
        """Connects to the server at the manager's address."""
        _references.forget_address(self._address)
        self._session().request("dummy")
        self._state.value = State.STARTED

    def start(self, initializer=None, initargs=()):
        """Starts the server's process, which calls `initializer(*initargs)` first. What goes wrong there is raised here."""
        self._check_initial()
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        reader, writer = self._ctx.Pipe(duplex=False)
        self._process = self._ctx.Process(
            target=type(self)._run_server,
            args=(self._registry, self._address, self._authkey, self._serializer, writer, initializer, initargs),
        )
        ident = ":".join(str(i) for i in self._process._identity)
        self._process.name = f"{type(self).__name__}-{ident}"
        with reader:
            with writer:
                self._process.start()
            self._address = self._hear(reader)
        _references.forget_address(self._address)
        self._state.value = State.STARTED
        self.shutdown = util.Finalize(
            self,
            type(self)._finalize_manager,
            args=(
                self._process, self._address, self._authkey, self._state, self._serializer, self._shutdown_timeout,
            ),
            exitpriority=0,
        )  # fmt: skip

    def _hear(self, reader):
        """The server's address."""
        # Other processes that are being started may have the writing end, too: its end alone does not tell.
        connection.wait([reader, self._process.sentinel])
        if not reader.poll():
            self._process.join()
            raise EOFError(f"the manager's process has ended before it served: exit code {self._process.exitcode}")
        kind, result = reader.recv()
        if kind == "#RETURN":
            return result
        self._process.join()
        try:
            raise convert_to_error(kind, result)
        finally:
            # The traceback has this frame, which must not have the exception: nobody but the garbage collector would let go of it.
            del result

    @classmethod
    def _run_server(cls, registry, address, authkey, serializer, writer, initializer=None, initargs=()):
        # Ctrl-C is for the program; it ends the manager when it ends.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            if initializer is not None:
                initializer(*initargs)
            server = cls._Server(registry, address, authkey, serializer)
        except Exception as error:
            import traceback

            text = traceback.format_exc()
            try:
                ForkingPickler.loads(ForkingPickler.dumps(error))
                writer.send(("#ERROR", error))
            except Exception:
                writer.send(("#TRACEBACK", text))
            raise SystemExit(1) from None
        writer.send(("#RETURN", server.address))
        writer.close()
        util.info("manager serving at %r", server.address)
        server.serve_forever()

    def _session(self):
        if self._address is None:
            raise ValueError("the manager has no address yet: call its start(), or give it the address of a server to connect to")
        _references.learn_key(self._address, self._authkey)
        return _references.session(self._address, self._authkey, self._serializer)

    def _create(self, typeid, /, *args, **kwds):
        """Makes an object in the server: its token, and the names of its methods."""
        assert self._state.value == State.STARTED, "server not yet started"
        ident, exposed = self._session().request("create", typeid, *args, **kwds)
        return Token(typeid, self._address, ident), exposed

    def join(self, timeout=None):
        """Waits for the end of the server's process."""
        if self._process is not None:
            self._process.join(timeout)
            if not self._process.is_alive():
                self._process = None

    def _debug_info(self):
        """The server's objects, as text."""
        return self._session().request("debug_info")

    def _number_of_objects(self):
        """How many objects the server has."""
        return self._session().request("number_of_objects")

    def __enter__(self):
        if self._state.value == State.INITIAL:
            self.start()
        if self._state.value != State.STARTED:
            if self._state.value == State.INITIAL:
                raise context.ProcessError("Unable to start server")
            self._check_initial()
        return self

    def __exit__(self, exc_type, exc_val, exc_tb):
        self.shutdown()

    @staticmethod
    def _finalize_manager(process, address, authkey, state, serializer, shutdown_timeout):
        if process.is_alive():
            util.info("sending shutdown message to manager")
            try:
                _references.ask_to_end(address, authkey, serializer, max(shutdown_timeout, _PATIENCE))
                process.join(timeout=shutdown_timeout)
            except Exception as error:
                util.info("shutdown message failed: %s", error)
            if process.is_alive():
                util.info("manager still alive")
                process.terminate()
                process.join(timeout=shutdown_timeout)
            if process.is_alive():
                util.info("manager still alive after SIGTERM")
                process.kill()
                process.join()
        state.value = State.SHUTDOWN
        _references.forget_address(address)
        # What a server leaves that was killed.
        if type(address) is str and address.startswith(connection._PREFIX):
            with contextlib.suppress(FileNotFoundError):
                _broody.remove_name(address[len(connection._FOLDER) :])
        elif type(address) is str and connection._is_left_behind(address):
            with contextlib.suppress(OSError):
                os.unlink(address)

    @property
    def address(self):
        """Where the server listens."""
        return self._address

    @classmethod
    def register(
        cls, typeid, callable=None, proxytype=None, exposed=None, method_to_typeid=None, create_method=True
    ):
        """Makes a type known to managers of this class.

        typeid: its name, and with `create_method` that of the manager's method that makes one. callable: what makes one in the server. proxytype: what stands
        for it, by default an `AutoProxy`. exposed: the names of the methods that proxies may call, by default all without an underscore in front.
        method_to_typeid: of methods whose result stays in the server, and how.
        """
        if "_registry" not in cls.__dict__:
            cls._registry = cls._registry.copy()
        if proxytype is None:
            proxytype = AutoProxy
        exposed = exposed or getattr(proxytype, "_exposed_", None)
        method_to_typeid = method_to_typeid or getattr(proxytype, "_method_to_typeid_", None)
        for key, value in (method_to_typeid or {}).items():
            assert type(key) is str, f"{key!r} is not a string"
            assert type(value) is str, f"{value!r} is not a string"
        cls._registry[typeid] = callable, exposed, method_to_typeid, proxytype
        if not create_method:
            return

        def create(self, /, *args, **kwds):
            util.debug("requesting creation of a shared %r object", typeid)
            token, exposed = self._create(typeid, *args, **kwds)
            return _adopt(proxytype, self, token, exposed)

        create.__name__ = typeid
        setattr(cls, typeid, create)


def _adopt(proxytype, manager, token, exposed):
    """The proxy of an object to which the server has counted a reference of this process already."""
    session = manager._session()
    session.adopt(token.id)
    try:
        return proxytype(token, manager._serializer, manager=manager, authkey=manager._authkey, exposed=exposed)
    finally:
        session.decref(token.id)


# Proxies


class ProcessLocalSet(set):
    """A set that is empty in a forked child, and not pickled."""

    def __init__(self):
        util.register_after_fork(self, lambda obj: obj.clear())

    def __reduce__(self):
        return type(self), ()


class BaseProxy:
    """What stands for an object in a server.

    A method of it is `_callmethod` with the method's name. As long as there is a proxy in a living process, the object is there.
    """

    # In the server: what it stands for. There calls need no connection.
    _entry = None
    _pid = None
    # The session that it was called in last.
    _known = None

    def __init__(
        self, token, serializer, manager=None, authkey=None, exposed=None, incref=True, manager_owned=False
    ):
        self._token = token
        self._id = token.id
        self._manager = manager
        self._serializer = serializer
        self._Client = listener_client[serializer][1]
        self._owned_by_manager = manager_owned
        if authkey is not None:
            self._authkey = process.AuthenticationString(authkey)
        elif manager is not None:
            self._authkey = manager._authkey
        else:
            known = _references.known_key(token.address)
            self._authkey = process.current_process().authkey if known is None else known
        self._close = None
        if manager_owned:
            self._entry = process.current_process()._manager_server._entry(self._id)
        elif incref:
            self._incref()
        util.register_after_fork(self, BaseProxy._after_fork)

    def _session(self):
        return _references.session(self._token.address, self._authkey, self._serializer)

    def _callmethod(self, methodname, args=(), kwds={}):
        """Calls a method of the object. Gives its result, or raises its exception."""
        if self._entry is not None:
            return process.current_process()._manager_server.call_within(self._entry, methodname, args, kwds)
        session = self._known
        if session is None or session.is_over:
            session = self._known = self._session()
        return _broody.call(self, session, self._id, methodname, args, kwds)

    def _lost(self, session, error):
        """The connection is lost, or cannot be made."""
        if isinstance(error, (EOFError, ConnectionError)):
            _references.forget(session)
            if not error.args:
                raise _references.has_ended(self._token.address) from None
        raise error

    def _answered(self, kind, result):
        """What an answer stands for that is not a plain result."""
        if kind == "#PROXY":
            exposed, token = result
            return self._stand_for(token, exposed)
        try:
            raise convert_to_error(kind, result)
        finally:
            # The traceback has this frame, which must not have the exception: nobody but the garbage collector would let go of it.
            del result

    def _stand_for(self, token, exposed):
        # As this process knows it.
        token.address = self._token.address
        if self._manager is not None:
            return _adopt(self._manager._registry[token.typeid][-1], self._manager, token, exposed)
        # It has come from another process, without its manager.
        known = SyncManager._registry.get(token.typeid)
        session = self._session()
        session.adopt(token.id)
        try:
            proxytype = AutoProxy if known is None else known[-1]
            return proxytype(token, self._serializer, authkey=self._authkey, exposed=exposed)
        finally:
            session.decref(token.id)

    def _getvalue(self):
        """A copy of the object."""
        return self._callmethod("#GETVALUE")

    def _incref(self):
        if self._owned_by_manager:
            return
        session = self._session()
        session.incref(self._id)
        self._release_at_the_end(session)

    def _release_at_the_end(self, session):
        self._pid = os.getpid()
        self._close = util.Finalize(self, session.decref, args=(self._id,))

    def _after_fork(self):
        if self._pid == os.getpid():
            # It came with the start of this process, which forgets what was to be done at its end.
            self._release_at_the_end(self._session())
            _references.leave_at_exit()
            return
        self._manager = None
        # What a server has within itself is the parent's; here it is a client like others.
        self._entry = None
        self._owned_by_manager = False
        try:
            self._incref()
        except Exception as error:
            # The server may have ended.
            util.info("incref failed: %s", error)

    def __reduce__(self):
        kwds = {}
        if context.get_spawning_popen() is not None:
            kwds["authkey"] = self._authkey
        elif self._entry is not None and (client := _server.served()) is not None and client.session is not None:
            # Whatever happens to the object meanwhile, it is still there when the proxy arrives.
            process.current_process()._manager_server._grant(self._entry, client)
            kwds["granted"] = True
        if getattr(self, "_isauto", False):
            kwds["exposed"] = self._exposed_
            return RebuildProxy, (AutoProxy, self._token, self._serializer, kwds)
        return RebuildProxy, (type(self), self._token, self._serializer, kwds)

    def __deepcopy__(self, memo):
        return self._getvalue()

    def __repr__(self):
        return f"<{type(self).__name__} object, typeid {self._token.typeid!r} at {id(self):#x}>"

    def __str__(self):
        """As the object is shown."""
        try:
            return self._callmethod("__repr__")
        except Exception:
            return repr(self)[:-1] + "; '__str__()' failed>"


def RebuildProxy(func, token, serializer, kwds):
    """A proxy that was pickled."""
    kwds = dict(kwds)
    is_granted = kwds.pop("granted", False)
    server = getattr(process.current_process(), "_manager_server", None)
    if server is not None and server.address == token.address:
        return func(token, serializer, incref=False, manager_owned=True, **kwds)
    if not is_granted:
        return func(token, serializer, **kwds)
    authkey = kwds.get("authkey") or _references.known_key(token.address) or process.current_process().authkey
    session = _references.session(token.address, authkey, serializer)
    session.adopt(token.id)
    try:
        return func(token, serializer, **kwds)
    finally:
        session.decref(token.id)


def _method(name):
    def method(self, /, *args, **kwds):
        return self._callmethod(name, args, kwds)

    method.__name__ = method.__qualname__ = name
    return method


_made_types = {}


def MakeProxyType(name, exposed, _cache=_made_types):
    """A class of proxies with the methods `exposed`."""
    exposed = tuple(exposed)
    try:
        return _cache[name, exposed]
    except KeyError:
        pass
    made = type(name, (BaseProxy,), {**{method: _method(method) for method in exposed}, "_exposed_": exposed})
    _cache[name, exposed] = made
    return made


def AutoProxy(
    token, serializer, manager=None, authkey=None, exposed=None, incref=True, manager_owned=False
):
    """A proxy whose methods are those that the server names."""
    if authkey is None:
        authkey = manager._authkey if manager is not None else _references.known_key(token.address)
    if authkey is None:
        authkey = process.current_process().authkey
    if exposed is None:
        if manager_owned:
            exposed = process.current_process()._manager_server.get_methods(None, token)
        else:
            exposed = _references.session(token.address, authkey, serializer).request("get_methods", token)
    proxytype = MakeProxyType(f"AutoProxy[{token.typeid}]", exposed)
    proxy = proxytype(token, serializer, manager=manager, authkey=authkey, incref=incref, manager_owned=manager_owned)
    proxy._isauto = True
    return proxy


class IteratorProxy(BaseProxy):
    _exposed_ = ("__next__", "send", "throw", "close")

    def __iter__(self):
        return self

    def __next__(self, *args):
        return self._callmethod("__next__", args)

    def send(self, *args):
        return self._callmethod("send", args)

    def throw(self, *args):
        return self._callmethod("throw", args)

    def close(self, *args):
        return self._callmethod("close", args)


class AcquirerProxy(BaseProxy):
    _exposed_ = ("acquire", "release", "locked")

    def acquire(self, blocking=True, timeout=None):
        return self._callmethod("acquire", (blocking,) if timeout is None else (blocking, timeout))

    def release(self):
        return self._callmethod("release")

    def locked(self):
        return self._callmethod("locked")

    def __enter__(self):
        return self._callmethod("acquire")

    def __exit__(self, exc_type, exc_val, exc_tb):
        return self._callmethod("release")


class ConditionProxy(AcquirerProxy):
    _exposed_ = ("acquire", "release", "locked", "wait", "notify", "notify_all")

    def wait(self, timeout=None):
        return self._callmethod("wait", (timeout,))

    def notify(self, n=1):
        return self._callmethod("notify", (n,))

    def notify_all(self):
        return self._callmethod("notify_all")

    def wait_for(self, predicate, timeout=None):
        """Waits until `predicate()`, which is called here, is true. Gives its last value."""
        until = None if timeout is None else time.monotonic() + timeout
        while not (result := predicate()):
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result


class EventProxy(BaseProxy):
    _exposed_ = ("is_set", "set", "clear", "wait")

    def is_set(self):
        return self._callmethod("is_set")

    def set(self):
        return self._callmethod("set")

    def clear(self):
        return self._callmethod("clear")

    def wait(self, timeout=None):
        return self._callmethod("wait", (timeout,))


class BarrierProxy(BaseProxy):
    _exposed_ = ("__getattribute__", "wait", "abort", "reset")

    def wait(self, timeout=None):
        return self._callmethod("wait", (timeout,))

    def abort(self):
        return self._callmethod("abort")

    def reset(self):
        return self._callmethod("reset")

    @property
    def parties(self):
        return self._callmethod("__getattribute__", ("parties",))

    @property
    def n_waiting(self):
        return self._callmethod("__getattribute__", ("n_waiting",))

    @property
    def broken(self):
        return self._callmethod("__getattribute__", ("broken",))


class Namespace:
    """An object for attributes."""

    def __init__(self, /, **kwds):
        self.__dict__.update(kwds)

    def __repr__(self):
        shown = sorted(f"{name}={value!r}" for name, value in self.__dict__.items() if not name.startswith("_"))
        return f"{type(self).__name__}({', '.join(shown)})"


class NamespaceProxy(BaseProxy):
    """Attributes that do not begin with an underscore are the object's."""

    _exposed_ = ("__getattribute__", "__setattr__", "__delattr__")

    def __getattr__(self, key):
        if key[0] == "_":
            return object.__getattribute__(self, key)
        return object.__getattribute__(self, "_callmethod")("__getattribute__", (key,))

    def __setattr__(self, key, value):
        if key[0] == "_":
            return object.__setattr__(self, key, value)
        return object.__getattribute__(self, "_callmethod")("__setattr__", (key, value))

    def __delattr__(self, key):
        if key[0] == "_":
            return object.__delattr__(self, key)
        return object.__getattribute__(self, "_callmethod")("__delattr__", (key,))


class Value:
    """An object with a `value`."""

    def __init__(self, typecode, value, lock=True):
        self._typecode = typecode
        self._value = value

    def get(self):
        return self._value

    def set(self, value):
        self._value = value

    def __repr__(self):
        return f"{type(self).__name__}({self._typecode!r}, {self._value!r})"

    value = property(get, set)


def Array(typecode, sequence, lock=True):
    """An `array.array`."""
    return array.array(typecode, sequence)


class ValueProxy(BaseProxy):
    _exposed_ = ("get", "set")

    def get(self):
        return self._callmethod("get")

    def set(self, value):
        return self._callmethod("set", (value,))

    value = property(get, set)
    __class_getitem__ = classmethod(types.GenericAlias)


BaseListProxy = MakeProxyType("BaseListProxy", (
    "__add__", "__contains__", "__delitem__", "__getitem__", "__imul__", "__len__", "__mul__", "__reversed__", "__rmul__",
    "__setitem__", "append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort",
))  # fmt: skip


class ListProxy(BaseListProxy):
    def __iadd__(self, value):
        self._callmethod("extend", (value,))
        return self

    def __imul__(self, value):
        self._callmethod("__imul__", (value,))
        return self

    __class_getitem__ = classmethod(types.GenericAlias)


_BaseDictProxy = MakeProxyType("_BaseDictProxy", (
    "__contains__", "__delitem__", "__getitem__", "__ior__", "__iter__", "__len__", "__or__", "__reversed__", "__ror__",
    "__setitem__", "clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values",
))  # fmt: skip
_BaseDictProxy._method_to_typeid_ = {"__iter__": "Iterator"}
BaseDictProxy = _BaseDictProxy


class DictProxy(_BaseDictProxy):
    def __ior__(self, value):
        self._callmethod("__ior__", (value,))
        return self

    __class_getitem__ = classmethod(types.GenericAlias)


_BaseSetProxy = MakeProxyType("_BaseSetProxy", (
    "__and__", "__contains__", "__iand__", "__ior__", "__isub__", "__iter__", "__ixor__", "__len__",
    "__or__", "__rand__", "__ror__", "__rsub__", "__rxor__", "__sub__", "__xor__", "__ge__", "__gt__", "__le__", "__lt__",
    "add", "clear", "copy", "difference", "difference_update", "discard", "intersection", "intersection_update", "isdisjoint",
    "issubset", "issuperset", "pop", "remove", "symmetric_difference", "symmetric_difference_update", "union", "update",
))  # fmt: skip
_BaseSetProxy._method_to_typeid_ = {"__iter__": "Iterator"}


class SetProxy(_BaseSetProxy):
    def __ior__(self, value):
        self._callmethod("__ior__", (value,))
        return self

    def __iand__(self, value):
        self._callmethod("__iand__", (value,))
        return self

    def __ixor__(self, value):
        self._callmethod("__ixor__", (value,))
        return self

    def __isub__(self, value):
        self._callmethod("__isub__", (value,))
        return self

    __class_getitem__ = classmethod(types.GenericAlias)


ArrayProxy = MakeProxyType("ArrayProxy", ("__len__", "__getitem__", "__setitem__"))

BasePoolProxy = MakeProxyType("PoolProxy", (
    "apply", "apply_async", "close", "imap", "imap_unordered", "join", "map", "map_async", "starmap", "starmap_async",
    "terminate",
))  # fmt: skip
BasePoolProxy._method_to_typeid_ = {
    "apply_async": "AsyncResult",
    "map_async": "AsyncResult",
    "starmap_async": "AsyncResult",
    "imap": "Iterator",
    "imap_unordered": "Iterator",
}


class PoolProxy(BasePoolProxy):
    def __enter__(self):
        return self

    def __exit__(self, exc_type, exc_val, exc_tb):
        self.terminate()


# Managers of the usual types


class SyncManager(BaseManager):
    """A manager of locks, queues, lists and so on, which processes share by its proxies.

    What is shared without a server is faster by far: `broody.Queue`, `broody.Lock` and their like.
    """


SyncManager.register("Queue", queue.Queue)
SyncManager.register("JoinableQueue", queue.Queue)
SyncManager.register("Event", threading.Event, EventProxy)
SyncManager.register("Lock", _server.Lock, AcquirerProxy)
SyncManager.register("RLock", _server.RLock, AcquirerProxy)
SyncManager.register("Semaphore", threading.Semaphore, AcquirerProxy)
SyncManager.register("BoundedSemaphore", _server.BoundedSemaphore, AcquirerProxy)
SyncManager.register("Condition", _server.Condition, ConditionProxy)
SyncManager.register("Barrier", threading.Barrier, BarrierProxy)
SyncManager.register("Pool", pool.Pool, PoolProxy)
SyncManager.register("list", list, ListProxy)
SyncManager.register("dict", dict, DictProxy)
SyncManager.register("set", set, SetProxy)
SyncManager.register("Value", Value, ValueProxy)
SyncManager.register("Array", Array, ArrayProxy)
SyncManager.register("Namespace", Namespace, NamespaceProxy)
# Results of the others' methods.
SyncManager.register("Iterator", proxytype=IteratorProxy, create_method=False)
SyncManager.register("AsyncResult", create_method=False)

_server.is_free(Namespace, Value, pool.Pool, pool.AsyncResult, pool.MapResult)


# Managers of shared memory


class SharedMemoryServer(Server):
    """The server of a `SharedMemoryManager`: it knows the names of blocks, and removes them at its end."""

    public = [*Server.public, "track_segment", "release_segment", "list_segments"]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._segments = set()

    def track_segment(self, c, segment_name):
        """The block goes with the manager."""
        self._segments.add(segment_name)

    def release_segment(self, c, segment_name):
        """Removes the block's name."""
        from .shared_memory import SharedMemory

        self._segments.discard(segment_name)
        try:
            segment = SharedMemory(segment_name)
        except FileNotFoundError:
            return
        segment.close()
        segment.unlink()

    def list_segments(self, c):
        """The names of the blocks."""
        return list(self._segments)

    def shutdown(self, c):
        """Removes all blocks, and ends."""
        for name in list(self._segments):
            self.release_segment(c, name)
        super().shutdown(c)


class SharedMemoryManager(BaseManager):
    """A manager of blocks of shared memory: they live until it is shut down."""

    _Server = SharedMemoryServer

    def __del__(self):
        util.debug("%s is being deleted", type(self).__name__)

    def _track(self, memory):
        try:
            self._session().request("track_segment", memory.name)
        except BaseException:
            memory.close()
            memory.unlink()
            raise

    def _check_started(self):
        if self._state.value != State.STARTED:
            raise ValueError("the manager's server is not running: call start(), or use the manager in a `with` statement")

    def SharedMemory(self, size):
        """A new block of `size` bytes."""
        from .shared_memory import SharedMemory

        self._check_started()
        memory = SharedMemory(None, create=True, size=size)
        self._track(memory)
        return memory

    def ShareableList(self, sequence):
        """A new list in shared memory."""
        from .shared_memory import ShareableList

        self._check_started()
        made = ShareableList(sequence)
        self._track(made.shm)
        return made
