"""Descriptors as picklable objects.

The descriptor waits in the process that pickles it, at a thread of the engine's, until the process that unpickles it asks for it. At the start of a process
`reduction.DupFd` is faster: the descriptor goes along.
"""

import os

from . import _broody

__all__ = ["stop", "DupFd"]


class DupFd:
    """A duplicate of the descriptor `fd` that can be pickled, and taken once by `detach()`, as long as the process that made it lives."""

    def __init__(self, fd):
        self._token = os.urandom(16)
        self._name = _broody.leave_descriptor(fd, self._token, b"broody-%d-%s" % (os.getpid(), os.urandom(8).hex().encode()))

    def detach(self):
        """The descriptor; the caller's then."""
        try:
            fd = _broody.take_descriptor(self._name, self._token)
        except ConnectionRefusedError as error:
            raise ConnectionRefusedError(
                error.errno, "the process that has sent this descriptor is gone, or has called resource_sharer.stop(), before it was received"
            ) from None
        if fd is None:
            raise FileNotFoundError("this descriptor is not there: it can be received once")
        return fd


def stop(timeout=None):
    """Closes what was pickled and not received."""
    _broody.close_desk()


# A fork has copies of what waits in its parent, and would keep pipes open by them.
os.register_at_fork(after_in_child=stop)
