"""Processes as Python objects: `Process`'s base class, the calling process, its parent and its children.

The engine starts, watches and reaps; what is here is what can only be Python's: the object that is subclassed and pickled, and its way through
`_bootstrap` in the child. Behaviour: https://docs.python.org/3/library/multiprocessing.html#process-and-exceptions
"""

import itertools
import os
import sys
import threading
from _weakrefset import WeakSet

__all__ = ["BaseProcess", "current_process", "active_children", "parent_process"]

try:
    ORIGINAL_DIR = os.path.abspath(os.getcwd())
except OSError:
    ORIGINAL_DIR = None


def current_process():
    """The object of the calling process."""
    return _current_process


def active_children():
    """The children of this process that are alive, oldest first. (The engine reaps those that have ended by itself.)"""
    _cleanup()
    return list(_children)


def parent_process():
    """The process that started this one by `Process`; None in the first one."""
    return _parent_process


def _exitcode_name(exitcode):
    import signal

    try:
        return f"-{signal.Signals(-exitcode).name}"
    except ValueError:
        return exitcode


def _cleanup():
    for child in list(_children):
        if (popen := child._popen) and popen.poll() is not None:
            _children.discard(child)


class BaseProcess:
    """What all processes have in common, whatever starts them.

    Looks like `threading.Thread`: `run` is what the process does, by default a call of `target`; `start` starts it.

    orphan: what becomes of the process when the program ends: "end" (the default), or "keep": it lives on. (Not in the standard module, where it
    depends on how the program ends.)
    """

    def _Popen(self):
        raise NotImplementedError

    def __init__(self, group=None, target=None, name=None, args=(), kwargs={}, *, daemon=None, orphan="end"):
        assert group is None, "group argument must be None for now"
        number = next(_process_counter)
        parent = _current_process
        self._identity = parent._identity + (number,)
        self._config = parent._config.copy()
        self._parent_pid = os.getpid()
        self._parent_name = parent.name
        self._popen = None
        self._closed = False
        self._target = target
        self._args = tuple(args)
        self._kwargs = dict(kwargs)
        self._name = name or f"{type(self).__name__}-{':'.join(str(i) for i in self._identity)}"
        if daemon is not None:
            self.daemon = daemon
        if orphan not in ("end", "keep"):
            raise ValueError(f"orphan must be 'end' or 'keep', not {orphan!r}")
        self._orphan = orphan
        _dangling.add(self)

    def _check_closed(self):
        if self._closed:
            raise ValueError("process object is closed")

    def run(self):
        """What the process does. To be overridden in subclasses."""
        if self._target:
            self._target(*self._args, **self._kwargs)

    def start(self):
        """Starts the process. Once for each object.

        A daemonic process may have children, unlike the standard module's: they end with it.
        """
        self._check_closed()
        assert self._popen is None, "cannot start a process twice"
        assert self._parent_pid == os.getpid(), "can only start a process object created by current process"
        assert not (_current_process._config.get("daemon") and _current_process._config.get("childless")), (
            "daemonic processes are not allowed to have children"
        )
        _cleanup()
        self._popen = self._Popen(self)
        self._sentinel = self._popen.sentinel
        # What it holds is the child's now: objects that close when they are collected would otherwise stay open here.
        del self._target, self._args, self._kwargs
        # Who lives on is not waited for at the end.
        if self._orphan != "keep":
            _children.add(self)

    def terminate(self):
        """Asks the process to end: SIGTERM."""
        self._check_closed()
        self._popen.terminate()

    def kill(self):
        """Ends the process: SIGKILL."""
        self._check_closed()
        self._popen.kill()

    def interrupt(self):
        """Interrupts the process as Ctrl-C does: SIGINT. (New in Python 3.14; here for all.)"""
        self._check_closed()
        self._popen.interrupt()

    def join(self, timeout=None):
        """Waits until the process has ended, at most for `timeout` seconds."""
        self._check_closed()
        assert self._parent_pid == os.getpid(), "can only join a child process"
        assert self._popen is not None, "can only join a started process"
        if self._popen.wait(timeout) is not None:
            _children.discard(self)

    def is_alive(self):
        """Whether the process has been started and has not ended."""
        self._check_closed()
        if self is _current_process:
            return True
        assert self._parent_pid == os.getpid(), "can only test a child process"
        if self._popen is None:
            return False
        if self._popen.poll() is None:
            return True
        _children.discard(self)
        return False

    def close(self):
        """Lets go of what the object holds. The process must have ended."""
        if self._popen is not None:
            if self._popen.poll() is None:
                raise ValueError(
                    "Cannot close a process while it is still running. You should first call join() or terminate()."
                )
            self._popen.close()
            self._popen = None
            del self._sentinel
            _children.discard(self)
        self._closed = True

    @property
    def name(self):
        """For messages only; need not be unique."""
        return self._name

    @name.setter
    def name(self, name):
        assert isinstance(name, str), "name must be a string"
        self._name = name

    @property
    def daemon(self):
        """Whether the process is ended, instead of joined, when the one that started it exits."""
        return self._config.get("daemon", False)

    @daemon.setter
    def daemon(self, daemonic):
        assert self._popen is None, "process has already started"
        self._config["daemon"] = daemonic

    @property
    def authkey(self):
        """The key that connections between the processes of a program are authenticated with."""
        return self._config["authkey"]

    @authkey.setter
    def authkey(self, authkey):
        self._config["authkey"] = AuthenticationString(authkey)

    @property
    def exitcode(self):
        """The exit code, negative for the signal that has ended the process; None while it runs or is not started."""
        self._check_closed()
        if self._popen is None:
            return None
        return self._popen.poll()

    @property
    def ident(self):
        """The process id; None before the start."""
        self._check_closed()
        if self is _current_process:
            return os.getpid()
        return self._popen and self._popen.pid

    pid = ident

    @property
    def sentinel(self):
        """A descriptor that is readable when the process has ended."""
        self._check_closed()
        try:
            return self._sentinel
        except AttributeError:
            raise ValueError("process not started") from None

    def __repr__(self):
        if self is _current_process:
            status = "started"
        elif self._closed:
            status = "closed"
        elif self._parent_pid != os.getpid():
            status = "unknown"
        elif self._popen is None:
            status = "initial"
        elif (exitcode := self._popen.poll()) is None:
            status = "started"
        else:
            status = "stopped"
        words = [type(self).__name__, f"name={self._name!r}"]
        if self._popen is not None:
            words.append(f"pid={self._popen.pid}")
        words += [f"parent={self._parent_pid}", status]
        if status == "stopped":
            words.append(f"exitcode={_exitcode_name(exitcode)}")
        if self.daemon:
            words.append("daemon")
        return f"<{' '.join(words)}>"

    def _bootstrap(self, parent_sentinel=None):
        """In the child: becomes the current process, runs, and gives the exit code."""
        from . import util

        try:
            _become(self, parent_sentinel)
            util.info("child process calling self.run()")
            self.run()
            exitcode = 0
        except SystemExit as error:
            exitcode = _exit_code(error)
        except BaseException:
            exitcode = 1
            import traceback

            sys.stderr.write(f"Process {self.name}:\n")
            traceback.print_exc()
        finally:
            exitcode = _leave(exitcode)
            threading._shutdown()
            util.info("process exiting with exitcode %d" % exitcode)
            util._flush_std_streams()
        return exitcode

    @staticmethod
    def _after_fork():
        from . import util

        util._finalizer_registry.clear()
        util._run_after_forkers()


def _become(obj, parent_sentinel=None):
    """Makes `obj` this process's object."""
    from . import context, util

    global _current_process, _parent_process, _process_counter, _children
    if obj._start_method is not None:
        context._force_start_method(obj._start_method)
    _process_counter = itertools.count(1)
    _children = set()
    util._close_stdin()
    # Let go of only at the end, as its clean-up may look for the current process.
    before = _current_process  # noqa: F841
    _current_process = obj
    _parent_process = _ParentProcess(obj._parent_name, obj._parent_pid, parent_sentinel)
    if threading._HAVE_THREAD_NATIVE_ID:
        threading.main_thread()._set_native_id()
    obj._after_fork()


def _leave(exitcode):
    """Runs the exit functions of a child."""
    from . import util

    try:
        util._exit_function()
    except SystemExit as error:
        return _exit_code(error)
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    return exitcode


def _clear_atexit():
    """In a process that is a fork: what was registered with `atexit` before is another one's."""
    if sys.version_info >= (3, 13):
        import atexit

        atexit._clear()


def _run_atexit():
    """Runs what was registered with `atexit`: since Python 3.13 in all children, before in those of `spawn` only."""
    if sys.version_info >= (3, 13):
        import atexit

        atexit._run_exitfuncs()


def _exit_code(error):
    """What the interpreter makes of a SystemExit."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code
    sys.stderr.write(f"{error.code}\n")
    return 1


class AuthenticationString(bytes):
    """A key, which goes to other processes only at their start."""

    def __reduce__(self):
        from .context import get_spawning_popen

        if get_spawning_popen() is None:
            raise TypeError("Pickling an AuthenticationString object is disallowed for security reasons")
        return AuthenticationString, (bytes(self),)


class _ParentProcess(BaseProcess):
    """The process that started this one. It can only be looked at."""

    def __init__(self, name, pid, sentinel):
        self._identity = ()
        self._name = name
        self._pid = pid
        self._parent_pid = None
        self._popen = None
        self._closed = False
        self._config = {}
        self._given = sentinel

    @property
    def _sentinel(self):
        if self._given is None:
            try:
                # This process ends with its parent, so that the number is still that one's.
                self._given = os.pidfd_open(self._pid)
            except ProcessLookupError:
                # Over: the reading end of a pipe without a writer is readable.
                self._given, writer = os.pipe()
                os.close(writer)
        return self._given

    def is_alive(self):
        from .connection import wait

        return not wait([self._sentinel], timeout=0)

    @property
    def ident(self):
        return self._pid

    pid = ident

    def join(self, timeout=None):
        """Waits until the parent has ended, at most for `timeout` seconds."""
        from .connection import wait

        wait([self._sentinel], timeout=timeout)


class _MainProcess(BaseProcess):
    """A process that broody has not started."""

    def __init__(self):
        self._identity = ()
        self._name = "MainProcess"
        self._parent_pid = None
        self._popen = None
        self._closed = False
        self._config = {"authkey": AuthenticationString(os.urandom(32)), "semprefix": "/mp"}

    def close(self):
        pass


_parent_process = None
_current_process = _MainProcess()
_process_counter = itertools.count(1)
_children = set()
# Process objects that have not been collected; for tests that look for leaks.
_dangling = WeakSet()
