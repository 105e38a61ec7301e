"""Connections between threads: objects go through queues, without being pickled."""

from queue import Queue

__all__ = ["Client", "Listener", "Pipe"]

families = [None]


class Listener:
    """Where `Client` connects to: the listener's address is its queue."""

    def __init__(self, address=None, family=None, backlog=1):
        self._backlog_queue = Queue(backlog)

    def accept(self):
        """Waits for a client; gives the connection to it."""
        return Connection(*self._backlog_queue.get())

    def close(self):
        self._backlog_queue = None

    @property
    def address(self):
        return self._backlog_queue

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def Client(address):
    """A connection to a listener."""
    to_us, to_them = Queue(), Queue()
    address.put((to_us, to_them))
    return Connection(to_them, to_us)


def Pipe(duplex=True):
    """Two connections that are connected with each other."""
    one, other = Queue(), Queue()
    return Connection(one, other), Connection(other, one)


class Connection:
    """One end."""

    def __init__(self, _in, _out):
        self._out = _out
        self._in = _in
        self.send = self.send_bytes = _out.put
        self.recv = self.recv_bytes = _in.get

    def poll(self, timeout=0.0):
        """Whether there is something to receive, at the latest after `timeout` seconds."""
        if self._in.qsize() > 0:
            return True
        if timeout <= 0.0:
            return False
        with self._in.not_empty:
            self._in.not_empty.wait(timeout)
        return self._in.qsize() > 0

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()
