"""The fork server: an interpreter with one thread, which children of the start method `forkserver` are forks of.

It is the engine's (its template): it starts with the first process that needs it, reaps its children, and ends with the program.
"""

import os
import sys

from . import _broody, _runtime

__all__ = ["ensure_running", "get_inherited_fds", "connect_to_new_process", "set_forkserver_preload"]

_preload = ["__main__"]
_on_error = "ignore"


def set_forkserver_preload(modules_names, *, on_error="ignore"):
    """The modules that it imports before it forks; `on_error` is what becomes of those that cannot be: "ignore", "warn" or "fail"."""
    global _preload, _on_error
    if not all(type(name) is str for name in modules_names):
        raise TypeError("module_names must be a list of strings")
    if on_error not in ("ignore", "warn", "fail"):
        raise ValueError(f"on_error must be 'ignore', 'warn' or 'fail', not {on_error!r}")
    _preload = list(modules_names)
    _on_error = on_error
    _runtime.refresh()


class ForkServer:
    """The fork server, as far as the standard module shows it."""

    @property
    def _forkserver_pid(self):
        return ensure_running()

    @staticmethod
    def ensure_running():
        """See the function."""
        ensure_running()

    @staticmethod
    def set_forkserver_preload(modules_names):
        """See the function."""
        set_forkserver_preload(modules_names)


def ensure_running():
    """Starts it, if it does not run. The first process that needs it does that, too. Gives its pid."""
    _runtime.prepare("forkserver")
    return _broody.template_pid()


def get_inherited_fds():
    """None: descriptors come to a process by its start."""
    return None


def connect_to_new_process(fds):
    """There is no way to a new process but `Process`."""
    raise NotImplementedError("broody's fork server takes no descriptors; start a Process")


_forkserver = ForkServer()


def settings():
    """What the fork server has to know, for its command line."""
    from . import spawn

    data = spawn.get_preparation_data("ignore")
    keep = ("sys_path", "sys_argv", "init_main_from_path", "init_main_from_name", "installed")
    return {"preload": _preload, "on_error": _on_error, **{key: data[key] for key in keep if key in data}}


def preload(settings):
    """In the fork server: imports what its children shall find imported."""
    # What each child needs to become one.
    import pickle  # noqa: F401

    from . import popen_forkserver, process, reduction, spawn, util  # noqa: F401

    if settings.get("installed"):
        from . import install

        install()
    if path := settings.get("sys_path"):
        sys.path[:] = path
    sys.argv = settings["sys_argv"]
    util._prepare_stdin()
    process.current_process()._inheriting = True
    try:
        for name in settings["preload"]:
            try:
                if name != "__main__":
                    __import__(name)
                elif path := settings.get("init_main_from_path"):
                    spawn.import_main_path(path)
            except Exception as error:
                _complain(name, error, settings["on_error"])
    finally:
        del process.current_process()._inheriting


def _complain(name, error, on_error):
    if on_error == "fail":
        sys.stderr.write(f"broody's fork server cannot import {name}: {error}\n")
        os._exit(1)
    if on_error == "warn":
        import warnings

        warnings.warn(f"broody's fork server cannot import {name}: {error}", ImportWarning, stacklevel=2)
