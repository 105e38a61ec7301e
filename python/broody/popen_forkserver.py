"""Starting a process as a fork of the fork server."""

from . import popen_spawn_posix

__all__ = ["Popen"]


class Popen(popen_spawn_posix.Popen):
    """As by `spawn`, without the price of a new interpreter."""

    method = "forkserver"
