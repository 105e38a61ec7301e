"""Starting a process by a fork of this one, and watching it."""

import os
import signal

from . import _broody, _runtime, process, util

__all__ = ["Popen"]


class Popen:
    """A process that was started: what `Process` asks."""

    method = "fork"

    def __init__(self, process_obj):
        util._before_start(self.method)
        _runtime.prepare(self.method)
        self.returncode = None
        self.finalizer = None
        self._child = self._launch(process_obj)
        self.pid = self._child.pid
        self.sentinel = self._child.sentinel
        if getattr(process_obj, "_orphan", "end") == "keep":
            self._child.detach()

    def _launch(self, process_obj):
        child = _broody.fork(process_obj.name, bool(process_obj.daemon))
        if child is not None:
            return child
        code = 1
        try:
            process._clear_atexit()
            code = process_obj._bootstrap()
        finally:
            _leave(code)

    def duplicate_for_child(self, fd):
        """The number that the descriptor has in the child: the same, in a fork."""
        return fd

    def poll(self, flag=os.WNOHANG):
        """The exit code; None while it runs."""
        if self.returncode is None:
            self.returncode = self._child.poll() if flag == os.WNOHANG else self._child.wait()
        return self.returncode

    def wait(self, timeout=None):
        """Waits for the end, at most for `timeout` seconds. The exit code; None if it still runs."""
        if self.returncode is None:
            self.returncode = self._child.wait(timeout)
        return self.returncode

    def _send_signal(self, sig):
        if self.returncode is None:
            self._child.signal(sig)

    def interrupt(self):
        self._send_signal(signal.SIGINT)

    def terminate(self):
        self._send_signal(signal.SIGTERM)

    def kill(self):
        self._send_signal(signal.SIGKILL)

    def close(self):
        """Lets go of the process."""
        if self.finalizer is not None:
            self.finalizer()
        self._child = None


def _leave(code):
    """Ends a forked process, as the interpreter's version does it."""
    try:
        process._run_atexit()
        util._flush_std_streams()
    finally:
        _broody.exit_now(code)
