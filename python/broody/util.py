"""Exit functions, functions after a fork, and the package's logger.

`Finalize` and `_exit_function` are what the standard module's documentation and its users know by these names.
"""

import atexit
import itertools
import os
import sys
import threading
import weakref

from . import process

__all__ = [
    "sub_debug", "debug", "info", "sub_warning", "get_logger", "log_to_stderr", "get_temp_dir", "register_after_fork",
    "is_exiting", "Finalize", "ForkAwareThreadLock", "ForkAwareLocal", "close_all_fds_except", "SUBDEBUG", "SUBWARNING",
]  # fmt: skip


def __getattr__(name):
    # A part of the module's face, for which every process would have to import `subprocess`.
    if name == "_args_from_interpreter_flags":
        from subprocess import _args_from_interpreter_flags

        return _args_from_interpreter_flags
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# Logging

NOTSET = 0
SUBDEBUG = 5
DEBUG = 10
INFO = 20
SUBWARNING = 25
WARNING = 30

LOGGER_NAME = "multiprocessing"
DEFAULT_LOGGING_FORMAT = "[%(levelname)s/%(processName)s] %(message)s"

_logger = None
_log_to_stderr = False


def _log(level, msg, args):
    if _logger:
        _logger.log(level, msg, *args, stacklevel=3)


def sub_debug(msg, *args):
    _log(SUBDEBUG, msg, args)


def debug(msg, *args):
    _log(DEBUG, msg, args)


def info(msg, *args):
    _log(INFO, msg, args)


def sub_warning(msg, *args):
    _log(SUBWARNING, msg, args)


def get_logger():
    """The package's logger, made at the first call; it has no handler then."""
    global _logger
    import logging

    if not _logger:
        _logger = logging.getLogger(LOGGER_NAME)
        _logger.propagate = 0
        # The last words of a process come from its exit functions: these run before those of logging.
        atexit.unregister(_exit_function)
        atexit.register(_exit_function)
    return _logger


def log_to_stderr(level=None):
    """Lets the logger write to standard error, from `level` on. Gives the logger."""
    global _log_to_stderr
    import logging

    logger = get_logger()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(DEFAULT_LOGGING_FORMAT))
    logger.addHandler(handler)
    if level:
        logger.setLevel(level)
    _log_to_stderr = True
    return _logger


# Sockets with abstract names

def _platform_supports_abstract_sockets():
    return sys.platform == "linux"


def is_abstract_socket_namespace(address):
    """Whether `address` names a Unix socket outside the file system."""
    if not address:
        return False
    if isinstance(address, bytes):
        return address[0] == 0
    if isinstance(address, str):
        return address[0] == "\0"
    raise TypeError(f"address type of {address!r} unrecognized")


abstract_sockets_supported = _platform_supports_abstract_sockets()


# A folder for sockets


def _remove_temp_dir(rmtree, path):
    def on_error(function, name, error):
        if not isinstance(error[1], FileNotFoundError):
            raise error[1]

    rmtree(path, onerror=on_error)
    current = process.current_process()
    if current is not None:
        current._config["tempdir"] = None


def get_temp_dir():
    """A folder of this program, removed when the process that asked first ends."""
    path = process.current_process()._config.get("tempdir")
    if path is None:
        import shutil
        import tempfile

        path = tempfile.mkdtemp(prefix="pymp-")
        info("created temp directory %s", path)
        # Late: others may have files there.
        Finalize(None, _remove_temp_dir, args=(shutil.rmtree, path), exitpriority=-100)
        process.current_process()._config["tempdir"] = path
    return path


# What runs in a child after a fork

_afterfork_registry = weakref.WeakValueDictionary()
_afterfork_counter = itertools.count()


def _run_after_forkers():
    for (_, _, function), obj in sorted(_afterfork_registry.items(), key=lambda item: item[0][:2]):
        try:
            function(obj)
        except Exception as error:
            info("after forker raised exception %s", error)


def register_after_fork(obj, func):
    """Runs `func(obj)` in each child, as long as `obj` lives, in the order of these calls."""
    _afterfork_registry[(next(_afterfork_counter), id(obj), func)] = obj


# What runs at the end

_finalizer_registry = {}
_finalizer_counter = itertools.count()


class Finalize:
    """Calls `callback` once: when called itself, when `obj` is collected, or at the end of the process if it has a priority.

    A process runs its own only: a forked child starts with none, and does not run those of its parent.
    """

    def __init__(self, obj, callback, args=(), kwargs=None, exitpriority=None):
        if exitpriority is not None and not isinstance(exitpriority, int):
            raise TypeError(f"Exitpriority ({exitpriority!r}) must be None or int, not {type(exitpriority)}")
        if obj is not None:
            self._weakref = weakref.ref(obj, self)
        elif exitpriority is None:
            raise ValueError("Without object, exitpriority cannot be None")
        self._callback = callback
        self._args = args
        self._kwargs = kwargs or {}
        self._key = (exitpriority, next(_finalizer_counter))
        self._pid = os.getpid()
        _finalizer_registry[self._key] = self

    def __call__(
        self, wr=None, _finalizer_registry=_finalizer_registry, sub_debug=sub_debug, getpid=os.getpid
    ):
        """Calls the callback, unless it was called or cancelled before."""
        if _finalizer_registry.pop(self._key, None) is None:
            sub_debug("finalizer no longer registered")
            return None
        result = None
        if self._pid == getpid():
            sub_debug("finalizer calling %s with args %s and kwargs %s", self._callback, self._args, self._kwargs)
            result = self._callback(*self._args, **self._kwargs)
        else:
            sub_debug("finalizer ignored because different process")
        self._forget()
        return result

    def _forget(self):
        self._weakref = self._callback = self._args = self._kwargs = self._key = None

    def cancel(self):
        """It will not be called."""
        if _finalizer_registry.pop(self._key, None) is not None:
            self._forget()

    def still_active(self):
        """Whether it is still to be called."""
        return self._key in _finalizer_registry

    def __repr__(self):
        obj = getattr(self, "_weakref", None)
        obj = obj() if obj is not None else None
        if self._callback is None:
            return f"<{type(self).__name__} object, dead>"
        words = [f"callback={getattr(self._callback, '__name__', self._callback)}"]
        if self._args:
            words.append(f"args={self._args}")
        if self._kwargs:
            words.append(f"kwargs={self._kwargs}")
        if self._key[0] is not None:
            words.append(f"exitpriority={self._key[0]}")
        return f"<{type(self).__name__} object, {', '.join(words)}>"


def _run_finalizers(minpriority=None):
    """Calls those with a priority, of at least `minpriority` if given: highest first, the youngest first among equals."""
    if _finalizer_registry is None:
        return
    lowest = float("-inf") if minpriority is None else minpriority
    keys = [key for key in list(_finalizer_registry) if key[0] is not None and key[0] >= lowest]
    for key in sorted(keys, reverse=True):
        finalizer = _finalizer_registry.get(key)
        # Another one may have called it meanwhile.
        if finalizer is None:
            continue
        sub_debug("calling %s", finalizer)
        try:
            finalizer()
        except Exception:
            import traceback

            traceback.print_exc()
    if minpriority is None:
        _finalizer_registry.clear()


def is_exiting():
    """Whether the process is shutting down."""
    return _exiting or _exiting is None


_exiting = False


def _exit_function(
    info=info,
    debug=debug,
    _run_finalizers=_run_finalizers,
    active_children=process.active_children,
    current_process=process.current_process,
):
    """The end of a process: exit functions of priority 0 and more, then its children, then the other exit functions."""
    global _exiting
    if _exiting:
        return
    _exiting = True
    info("process shutting down")
    debug("running all \"atexit\" finalizers with priority >= 0")
    _run_finalizers(0)
    if current_process() is not None:
        children = active_children()
        for child in children:
            if child.daemon:
                info("calling terminate() for daemon %s", child.name)
                child._popen.terminate()
        for child in children:
            info("calling join() for process %s", child.name)
            _end(child)
    debug("running the remaining \"atexit\" finalizers")
    _run_finalizers()


# How long a daemon may take to end after SIGTERM, in seconds.
_GRACE = 1.0


def _end(child):
    if child.daemon:
        child.join(_GRACE)
        if child.is_alive():
            child._popen.kill()
    child.join()


atexit.register(_exit_function)


class ForkAwareThreadLock:
    """A thread's lock that is free in a forked child."""

    def __init__(self):
        self._lock = threading.Lock()
        self.acquire = self._lock.acquire
        self.release = self._lock.release
        register_after_fork(self, ForkAwareThreadLock._at_fork_reinit)

    def _at_fork_reinit(self):
        self._lock._at_fork_reinit()

    def __enter__(self):
        return self._lock.__enter__()

    def __exit__(self, *args):
        return self._lock.__exit__(*args)


class ForkAwareLocal(threading.local):
    """Thread-local data that is empty in a forked child, and not pickled."""

    def __init__(self):
        register_after_fork(self, lambda obj: obj.__dict__.clear())

    def __reduce__(self):
        return type(self), ()


# Descriptors

try:
    MAXFD = os.sysconf("SC_OPEN_MAX")
except (OSError, ValueError):
    MAXFD = 256


def close_all_fds_except(fds):
    """Closes every descriptor but these."""
    fds = [-1, *sorted(fds), MAXFD]
    assert fds[-1] == MAXFD, "fd too large"
    for lower, upper in itertools.pairwise(fds):
        os.closerange(lower + 1, upper)


def close_fds(*fds):
    """Closes these descriptors."""
    for fd in fds:
        os.close(fd)


# What `sys.stdin` will be in forks of this process.
_silent_stdin = None


def _prepare_stdin():
    """Before forks: a file on descriptor 0, which is /dev/null in children. To make one touches more memory than all else that a child does to become one."""
    global _silent_stdin
    if _silent_stdin is None:
        try:
            _silent_stdin = open(0, encoding="utf-8", closefd=False)
        except (OSError, ValueError):
            pass


def _before_start(method):
    """In the process that starts one by `method`."""
    if method == "fork":
        # What is buffered is written before every fork, by the engine.
        _prepare_stdin()
    else:
        _flush_std_streams()


def _close_stdin():
    if sys.stdin is None:
        return
    if _silent_stdin is not None and (sys.stdin is sys.__stdin__ or sys.stdin is _silent_stdin):
        sys.stdin = _silent_stdin
        return
    try:
        sys.stdin.close()
    except (OSError, ValueError):
        pass
    try:
        fd = os.open(os.devnull, os.O_RDONLY)
        try:
            sys.stdin = open(fd, encoding="utf-8", closefd=False)
        except BaseException:
            os.close(fd)
            raise
    except (OSError, ValueError):
        pass


def _flush_std_streams():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError):
            pass


def spawnv_passfds(path, args, passfds):
    """Starts the program `path`, which has these descriptors and no other. Gives its pid."""
    import subprocess

    with subprocess.Popen(args, executable=path, pass_fds=passfds) as started:
        # The caller waits for the pid itself.
        started.returncode = 0
        return started.pid


def _cleanup_tests():
    """Nothing: there is no helper process to stop. CPython's test suite asks for it."""
    process._cleanup()
    import gc

    gc.collect()
    from test import support

    support.reap_children()
