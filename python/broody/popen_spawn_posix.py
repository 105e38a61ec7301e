"""Starting a process as a new interpreter."""

from . import _broody, _by_value, popen_fork, reduction, spawn

__all__ = ["Popen"]


class _DupFd:
    """A descriptor's place among those of a process that is being started."""

    def __init__(self, index):
        self.index = index

    def detach(self):
        """The descriptor, in the new process; the caller's then."""
        return spawn.own_descriptor(self.index)


class Popen(popen_fork.Popen):
    """A process that was started by pickling its object."""

    method = "spawn"
    DupFd = _DupFd

    def __init__(self, process_obj):
        self._fds = []
        super().__init__(process_obj)

    def duplicate_for_child(self, fd):
        """The descriptor's place; the child has it at another number."""
        self._fds.append(fd)
        return len(self._fds) - 1

    def _launch(self, process_obj):
        def pickle_object():
            # A function of a notebook, or of a prompt, is in no module that the child could import.
            if _by_value.main_is_no_file():
                return _by_value.dumps_for_child(process_obj, True)
            return reduction.ForkingPickler.dumps(process_obj)

        def encode():
            return spawn._pack(process_obj._name, pickle_object, self)

        return _broody.start(self.method, process_obj.name, bool(process_obj.daemon), encode, self._fds)
