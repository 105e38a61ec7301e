"""What is left of the standard module's resource tracker: its functions.

There, a helper process removes what a program has left behind. Here, nothing is left: shared objects have no names, and the names of shared memory are removed by
the engine's supervisor when the program ends, however it does. So the process to run is the supervisor, and there is nothing to register.

The one thing that these functions still do: `unregister` of shared memory, in the process that made it, lets it outlive the program, as
`SharedMemory(track=False)` does.
"""

import os
import sys

from . import _broody, _runtime, process

__all__ = ["ensure_running", "register", "unregister"]


def _unlink_shared_memory(name):
    os.unlink("/dev/shm/" + name.lstrip("/"))


def _unlink_semaphore(name):
    os.unlink("/dev/shm/sem." + name.lstrip("/"))


def _nothing(name):
    pass


# How each kind of resource is removed by its name.
_CLEANUP_FUNCS = {
    "noop": _nothing,
    "semaphore": _unlink_semaphore,
    "shared_memory": _unlink_shared_memory,
}

if sys.version_info >= (3, 13):
    _CLEANUP_FUNCS["dummy"] = _nothing

# What the standard tracker's pipe takes in one piece.
_LONGEST = 512


class ReentrantCallError(RuntimeError):
    """The standard tracker's, never raised here."""


class ResourceTracker:
    """The functions as methods of one object."""

    # There is no pipe to it.
    _fd = None
    _exitcode = None

    def __init__(self):
        self._names = set()

    @property
    def _pid(self):
        """The supervisor's, for those who look which of the program's children are not its own; None if it does not run, and in children."""
        return _broody.supervisor_pid(False) if process.parent_process() is None else None

    def ensure_running(self):
        """Starts the program's supervisor, if it does not run. What needs it does that, too. There is also a descriptor, for programs that hand it on."""
        if process.parent_process() is None:
            _runtime.prepare()
            _broody.supervisor_pid(True)
        if self._fd is None:
            self._fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)

    def getfd(self):
        """A descriptor. Nobody reads what is written to it."""
        self.ensure_running()
        return self._fd

    def register(self, name, rtype):
        """Nothing but checks: what is to be removed is known without."""
        _check(name, rtype)
        self._names.add((name, rtype))

    def unregister(self, name, rtype):
        """Shared memory that this process made stays when the program ends; else nothing."""
        _check(name, rtype)
        self._names.discard((name, rtype))
        if rtype == "shared_memory":
            from . import shared_memory

            shared_memory._forget(name.lstrip("/"))

    def _check_alive(self):
        return True

    def _stop(self):
        self._exitcode = int(bool(self._names))
        self._names.clear()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _check(name, rtype):
    if rtype not in _CLEANUP_FUNCS:
        raise ValueError(f"unknown resource type {rtype!r}")
    if len(name) + len(rtype) + len("UNREGISTER::\n") > _LONGEST:
        raise ValueError(f"the name is too long: {len(name)} characters")


_resource_tracker = ResourceTracker()
ensure_running = _resource_tracker.ensure_running
register = _resource_tracker.register
unregister = _resource_tracker.unregister
getfd = _resource_tracker.getfd


def main(fd):
    """Nothing: there is no such process. Who starts one waits for the end of the pipe `fd`."""
    with open(fd, "rb") as pipe:
        while pipe.read(4096):
            pass
