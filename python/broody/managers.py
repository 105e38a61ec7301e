"""Managers: objects that live in a server process. To come with the issue of managers; the names are here for programs that import them."""

from .context import ProcessError

__all__ = ["BaseManager", "SyncManager", "BaseProxy", "Token", "SharedMemoryManager"]


class RemoteError(ProcessError):
    """An exception in the server, with its traceback as text."""


class BaseProxy:
    """An object that stands for one in the server."""


class BaseManager:
    """A server process and its objects."""

    def __init__(self, *args, **kwargs):
        raise NotImplementedError("broody has no managers yet; see CHANGELOG.md")

    @classmethod
    def register(cls, typeid, callable=None, proxytype=None, exposed=None, method_to_typeid=None, create_method=True):
        """Makes a type known to the manager."""


class SyncManager(BaseManager):
    """A manager of the usual types."""


class SharedMemoryManager(BaseManager):
    """A manager of shared memory."""
