"""The first steps of a process that the engine has started."""

import os
import sys

from . import _broody, _runtime

__all__ = []

# Whether this is the fork server, or a fork of it.
_serves = False


def begin():
    """The main function of a new interpreter: the fork server, or a child of `spawn`."""
    del sys.path[0]
    role = _broody.role()
    os.environ.pop("BROODY_BOOT", None)
    if role == "template":
        global _serves
        _serves = True
        template = _broody.Template()
        _runtime.prepare()
        _preload()
        template.serve()
    elif role == "child":
        code = _broody.resume()
        # As in a fork: exit functions run, and nothing else of the interpreter's end, which takes its time.
        import atexit

        from . import util

        try:
            atexit._run_exitfuncs()
            util._flush_std_streams()
        finally:
            _broody.exit_now(code)
    else:
        sys.exit("this command line is for processes that broody starts")


def _preload():
    import json

    from . import forkserver

    forkserver.preload(json.loads(sys.argv[-1]))


def main(payload):
    """The function of a process. Gives its exit code."""
    part()
    from . import process, spawn, util

    code = spawn._main(payload, _broody.own_descriptors())
    process._run_atexit()
    util._flush_std_streams()
    return code


def part():
    """Leaves behind what is the fork server's, in a fork of that: its exit functions, and its `os.environ`, which may be older than what the child was given."""
    if _serves:
        from . import process

        process._clear_atexit()
    take_environment()


def take_environment():
    """Makes `os.environ` what the engine has made of this process's environment."""
    variables = dict(_broody.variables())
    if variables != dict(os.environ):
        for name in os.environ.keys() - variables.keys():
            del os.environ[name]
        for name, value in variables.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
