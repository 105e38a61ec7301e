"""Messages between processes: connections, pipes, listeners and clients.

`Connection` is the engine's: framing, waiting and copying happen there. Here are its names, pickling, addresses and authentication. What goes over the wire is
what the standard module sends, so that either side may be that.

Behaviour: https://docs.python.org/3/library/multiprocessing.html#module-multiprocessing.connection
"""

import errno
import os
import socket
import stat
import sys

from . import _broody, _runtime, context, reduction, util

__all__ = ["Client", "Listener", "Pipe", "wait"]

BufferTooShort = context.BufferTooShort
AuthenticationError = context.AuthenticationError

_ForkingPickler = reduction.ForkingPickler
_ConnectionBase = _broody._ConnectionBase

BUFSIZE = 64 * 1024
# How long a listener waits for a client's part of an authentication, in seconds.
CONNECTION_TIMEOUT = 20.0

families = ["AF_INET", "AF_UNIX"]
default_family = "AF_UNIX"

# Where sockets are made whose address nobody has chosen: what is there goes with the program, also after SIGKILL.
_FOLDER = "/dev/shm/"
_PREFIX = _FOLDER + "broody-listener-"


class Connection(_ConnectionBase):
    """One end of a stream that carries messages.

    `handle` is a descriptor of a pipe or a stream socket, and the connection's from now on. An exception of a signal handler, Ctrl-C for example, ends any
    wait and leaves the stream whole: the next call goes on with the message.
    """

    def send(self, obj):
        """Sends an object, pickled."""
        self._check_closed()
        self._check_writable()
        self.send_bytes(_ForkingPickler.dumps(obj))

    def recv(self):
        """Receives an object."""
        return _ForkingPickler.loads(self.recv_bytes())

    def __enter__(self):
        return self

    def __exit__(self, exc_type, exc_value, exc_tb):
        self.close()


def Pipe(duplex=True):
    """Two connected connections. Without `duplex` the first one only receives and the second one only sends."""
    first, second = _broody.pipe(bool(duplex))
    if duplex:
        return Connection(first), Connection(second)
    return Connection(first, writable=False), Connection(second, readable=False)


def wait(object_list, timeout=None):
    """Waits until one of the objects is ready to be read, at most for `timeout` seconds. Gives those that are.

    Objects are connections, sockets, sentinels of processes, descriptors, and whatever has a `fileno()`.
    """
    return _broody.wait_for_any(object_list, timeout)


# Addresses


def arbitrary_address(family):
    """A free address."""
    if family == "AF_INET":
        return ("localhost", 0)
    if family == "AF_UNIX":
        return _PREFIX + os.urandom(8).hex()
    raise ValueError("unrecognized family")


def _validate_family(family):
    if family not in families:
        raise ValueError(f"Family {family} is not recognized.")


def address_type(address):
    """The family of an address."""
    if type(address) is tuple:
        return "AF_INET"
    if type(address) is str and address.startswith("\\\\"):
        return "AF_PIPE"
    if type(address) is str or util.is_abstract_socket_namespace(address):
        return "AF_UNIX"
    raise ValueError(f"address type of {address!r} unrecognized")


def _check_key(authkey):
    if authkey is not None and not isinstance(authkey, bytes):
        raise TypeError("authkey should be a byte string")


class Listener:
    """A socket that clients connect to.

    With an `authkey` only those who know it: each client has to prove that, and is shown that the listener knows it.
    """

    def __init__(self, address=None, family=None, backlog=1, authkey=None):
        family = family or (address and address_type(address)) or default_family
        _validate_family(family)
        _check_key(authkey)
        self._listener = SocketListener(address or arbitrary_address(family), family, backlog)
        self._authkey = authkey

    def accept(self):
        """Waits for a client. Gives a `Connection`.

        AuthenticationError if the client does not know the key, or says nothing for `CONNECTION_TIMEOUT` seconds: it is gone then, and the next may come.
        """
        if self._listener is None:
            raise OSError("listener is closed")
        conn = self._listener.accept()
        if self._authkey is not None:
            patient = _Patient(conn)
            _authenticate(conn, lambda: (deliver_challenge(patient, self._authkey), answer_challenge(patient, self._authkey)))
        return conn

    def close(self):
        """Stops listening."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    @property
    def address(self):
        """Where it listens."""
        return self._listener._address

    @property
    def last_accepted(self):
        """Where the last client has come from, if that is known."""
        return self._listener._last_accepted

    def __enter__(self):
        return self

    def __exit__(self, exc_type, exc_value, exc_tb):
        self.close()


def Client(address, family=None, authkey=None):
    """Connects to a listener. Gives a `Connection`."""
    family = family or address_type(address)
    _validate_family(family)
    _check_key(authkey)
    conn = SocketClient(address)
    if authkey is not None:
        # For as long as it takes: the listener may accept it much later.
        _authenticate(conn, lambda: (answer_challenge(conn, authkey), deliver_challenge(conn, authkey)))
    return conn


class SocketListener:
    """What a `Listener` is made of."""

    def __init__(self, address, family, backlog=1):
        self._socket = socket.socket(getattr(socket, family))
        self._unlink = None
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.setblocking(True)
            if is_ours := family == "AF_UNIX" and type(address) is str and address.startswith(_PREFIX):
                # It is made with this mode: nobody else can connect, not even for an instant.
                os.fchmod(self._socket.fileno(), 0o600)
            _bind(self._socket, address, family)
            self._socket.listen(backlog)
            self._address = self._socket.getsockname()
        except OSError:
            self._socket.close()
            raise
        self._family = family
        self._last_accepted = None
        if is_ours:
            self._unlink = util.Finalize(self, _broody.remove_name, args=(address[len(_FOLDER) :],), exitpriority=0)
            _runtime.prepare()
            _broody.keep_name(address[len(_FOLDER) :])
        elif family == "AF_UNIX" and not util.is_abstract_socket_namespace(address):
            self._unlink = util.Finalize(self, os.unlink, args=(address,), exitpriority=0)

    def accept(self):
        accepted, self._last_accepted = self._socket.accept()
        accepted.setblocking(True)
        return Connection(accepted.detach())

    def close(self):
        try:
            self._socket.close()
        finally:
            unlink, self._unlink = self._unlink, None
            if unlink is not None:
                unlink()


def _bind(bound, address, family):
    try:
        bound.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or family != "AF_UNIX" or not _is_left_behind(address):
            raise
        os.unlink(address)
        bound.bind(address)


def _is_left_behind(path):
    """Whether there is the socket of a listener that was killed: nobody listens there."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX) as trying:
            trying.setblocking(False)
            trying.connect(path)
    except ConnectionRefusedError:
        return True
    except (OSError, ValueError, TypeError):
        pass
    return False


def SocketClient(address, patience=None):
    """A connection to the socket at `address`, without authentication. OSError if that takes more than `patience` seconds."""
    with socket.socket(getattr(socket, address_type(address))) as connecting:
        connecting.setblocking(True)
        if patience is not None:
            # No timeout of Python's: then the socket does not wait for room in the listener's queue. See socket(7).
            _limit_sending(connecting, patience)
        connecting.connect(address)
        if patience is not None:
            _limit_sending(connecting, 0)
        return Connection(connecting.detach())


def _limit_sending(limited, seconds):
    import struct

    limited.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6)))


def _client_with_patience(address, authkey, patience):
    """As `Client`, of a listener that may be stopped or stuck: an error then, after `patience` seconds for each step."""
    conn = SocketClient(address, patience)
    patient = _Patient(conn, patience)
    _authenticate(conn, lambda: (answer_challenge(patient, authkey), deliver_challenge(patient, authkey)))
    return conn


# Authentication: each side proves that it knows the key by a digest of what the other one has made up. Since Python 3.12 the message says which digest; before,
# it was MD5. Who answers to an old message does so in the old way, and what a client of the old kind answers is understood.

MESSAGE_LENGTH = 40 if sys.version_info >= (3, 12) else 20

CHALLENGE = _CHALLENGE = b"#CHALLENGE#"
WELCOME = _WELCOME = b"#WELCOME#"
FAILURE = _FAILURE = b"#FAILURE#"

# No message of an authentication is longer: who is not known yet cannot make this process take more.
_LONGEST = 256
# How long random bytes must be to be a challenge, and how many there are.
_SHORTEST_CHALLENGE = 20
_RANDOM_BYTES = 40

_DIGESTS = {"md5": 16, "sha256": 32, "sha384": 48, "sha3_256": 32, "sha3_384": 48}
_ALLOWED_DIGESTS = frozenset(_DIGESTS)
# What a message has in front that says nothing: then it is of the old kind.
_OLD = ""


def _get_digest_name_and_payload(message):
    if message.startswith(b"{"):
        name, brace, payload = message[1:].partition(b"}")
        name = name.decode("ascii", "replace")
        if brace and name in _ALLOWED_DIGESTS:
            return name, payload
    if len(message) in (_SHORTEST_CHALLENGE, _DIGESTS["md5"]):
        return _OLD, message
    raise AuthenticationError(
        f"the other side asks for a digest that is not one of {', '.join(sorted(_ALLOWED_DIGESTS))}: {bytes(message[:40])!r}"
    )


def _create_response(authkey, message):
    """The proof that this side knows the key."""
    import hmac

    name, _ = _get_digest_name_and_payload(message)
    digest = hmac.new(authkey, message, name or "md5").digest()
    return b"{%s}%s" % (name.encode("ascii"), digest) if name else digest


def _verify_challenge(authkey, message, response):
    """Raises AuthenticationError unless `response` proves that the other side knows the key."""
    import hmac

    name, payload = _get_digest_name_and_payload(response)
    expected = hmac.new(authkey, message, name or "md5").digest()
    if not hmac.compare_digest(expected, payload):
        raise AuthenticationError("digest received was wrong")


def deliver_challenge(connection, authkey, digest_name="sha256"):
    """Lets the other side prove that it knows the key."""
    if not isinstance(authkey, bytes):
        raise ValueError(f"Authkey must be bytes, not {type(authkey)!s}")
    message = b"{%s}%s" % (digest_name.encode("ascii"), os.urandom(_RANDOM_BYTES))
    connection.send_bytes(_CHALLENGE + message)
    try:
        _verify_challenge(authkey, message, connection.recv_bytes(_LONGEST))
    except AuthenticationError:
        connection.send_bytes(_FAILURE)
        raise
    connection.send_bytes(_WELCOME)


def answer_challenge(connection, authkey):
    """Proves to the other side that this one knows the key."""
    if not isinstance(authkey, bytes):
        raise ValueError(f"Authkey must be bytes, not {type(authkey)!s}")
    message = connection.recv_bytes(_LONGEST)
    if not message.startswith(_CHALLENGE):
        raise AuthenticationError(f"a challenge was expected, and this came: {bytes(message[:40])!r}")
    message = message[len(_CHALLENGE) :]
    if len(message) < _SHORTEST_CHALLENGE:
        raise AuthenticationError(f"the challenge is too short: {len(message)} bytes")
    connection.send_bytes(_create_response(authkey, message))
    if connection.recv_bytes(_LONGEST) != _WELCOME:
        raise AuthenticationError("digest sent was rejected")


class _Patient:
    """A connection whose other side may not be silent for long."""

    def __init__(self, conn, patience=None):
        self.send_bytes = conn.send_bytes
        self._conn = conn
        self._patience = CONNECTION_TIMEOUT if patience is None else patience

    def recv_bytes(self, maxlength):
        if not self._conn.poll(self._patience):
            raise AuthenticationError(f"the other side says nothing, {self._patience} s long, instead of proving its key")
        return self._conn.recv_bytes(maxlength)


def _authenticate(conn, steps):
    try:
        steps()
    except BaseException:
        conn.close()
        raise


# Connections whose objects are encoded in another way


class ConnectionWrapper:
    """A connection with functions of its own for turning objects into bytes and back."""

    def __init__(self, conn, dumps, loads):
        self._conn = conn
        self._dumps = dumps
        self._loads = loads
        for name in ("fileno", "close", "poll", "recv_bytes", "send_bytes"):
            setattr(self, name, getattr(conn, name))

    def send(self, obj):
        self._conn.send_bytes(self._dumps(obj))

    def recv(self):
        return self._loads(self._conn.recv_bytes())


def _xml_dumps(obj):
    from xmlrpc import client

    return client.dumps((obj,), None, None, None, True).encode("utf-8")


def _xml_loads(data):
    from xmlrpc import client

    (obj,), _ = client.loads(data.decode("utf-8"))
    return obj


class XmlListener(Listener):
    """A listener whose connections carry objects as XML-RPC does."""

    def accept(self):
        return ConnectionWrapper(super().accept(), _xml_dumps, _xml_loads)


def XmlClient(*args, **kwds):
    """A client of an `XmlListener`."""
    return ConnectionWrapper(Client(*args, **kwds), _xml_dumps, _xml_loads)


# Pickling


def reduce_connection(conn):
    return rebuild_connection, (reduction.DupFd(conn.fileno()), conn.readable, conn.writable)


def rebuild_connection(duplicate, readable, writable):
    return Connection(duplicate.detach(), readable, writable)


reduction.register(Connection, reduce_connection)
