"""What the engine has to know of the interpreter: how to start another one, and where its supervisor is."""

import os
import sys

from . import _broody

__all__ = []

_FOLDER = os.path.dirname(os.path.abspath(__file__))
SUPERVISOR = os.path.join(_FOLDER, "broody-supervisor")

# The start methods that the engine has been prepared for.
_prepared = set()


def prepare(method="fork"):
    """Before a start by `method`: tells the engine what it has to know for it."""
    if method not in _prepared:
        arguments = command()
        template = list(arguments)
        # Also when another method comes later: the fork server may have to be started again.
        if "forkserver" in _prepared | {method}:
            import json

            from . import forkserver

            template.append(json.dumps(forkserver.settings()))
        supervisor = os.environ.get("BROODY_SUPERVISOR", SUPERVISOR)
        _broody.install(supervisor, arguments[0], arguments, template)
        _prepared.add(method)


def refresh():
    """Something of that has changed."""
    _prepared.clear()


def command():
    """The command line of a process of the engine's: the fork server, or a child of `spawn`."""
    from subprocess import _args_from_interpreter_flags

    from . import spawn

    home = os.path.dirname(_FOLDER)
    # It must be this very build, wherever the path leads to. `begin` takes the folder off the path again.
    program = f"import sys; sys.path.insert(0, {home!r}); from broody._child import begin; begin()"
    return [spawn.get_executable(), *_args_from_interpreter_flags(), "-c", program, "--multiprocessing-fork"]


def is_installed():
    """Whether broody stands for `multiprocessing` in this process."""
    package = sys.modules.get("multiprocessing")
    return package is not None and package is sys.modules["broody"]
